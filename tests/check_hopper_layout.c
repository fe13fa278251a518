/*
 * Where things lie on a Hopper GPU, found out with known patterns: into which byte of shared memory the copy engine puts each
 * element of a box, what a box that hangs over the end of a tensor does, and which elements the tensor cores take when a
 * descriptor tells them where a matrix begins. The functions and maps are those of the steps; the GPU's part is hopper_layout.cu.
 */
#include <stdlib.h>
#include <string.h>

#include "hopper_layout.h"
#include "suites.h"

/* What element (head, row, col) of X is: its own number, as bits; its row; its column. */
enum pattern { NUMBER, ROW, COLUMN, PATTERNS };

static struct buffer new_on_gpu(int64_t count, size_t size, const void *from)
{
    struct buffer b = buffer_new((size_t)count * size, &gpu_device);
    if (from)
        gpu_upload(b.data, from, b.bytes);
    return b;
}

/* Its numbers on the host: free() them. */
static void *taken_from_gpu(struct buffer *b)
{
    void *host = malloc(b->bytes);
    gpu_download(host, b->data, b->bytes);
    REQUIRE(buffer_guards_intact(b), "memory outside the tensors was written");
    buffer_free(b);
    return host;
}

/* x: (rows, dim), head 0. Element (row, col) of the box: zero beyond the last row, and nothing of head 1. */
static uint16_t in_box(const uint16_t *x, const struct layout *l, int64_t row, int64_t col)
{
    return LAYOUT_FIRST_ROW + row < l->rows ? x[(LAYOUT_FIRST_ROW + row) * l->dim + col] : 0;
}

/* Panels of 64 columns, rows of 128 bytes; in row r chunk c, 16 bytes, lies where chunk c ^ r % 8 would. */
static void check_image(const uint16_t *image, const uint16_t *x, const struct layout *l)
{
    for (int64_t r = 0; r < l->keys; r++)
        for (int64_t c = 0; c < l->dim; c++) {
            int64_t at = c / 64 * l->keys * 64 + r * 64 + ((c % 64 / 8) ^ r % 8) * 8 + c % 8;
            REQUIRE(image[at] == in_box(x, l, r, c), "element (%d, %d) of the box is not at byte %d", (int)r, (int)c,
                    2 * (int)at);
        }
}

/* The box, and nothing else: neither the rows before it, nor head 1. */
static void check_copy(const uint16_t *copy, const uint16_t *x, const struct layout *l)
{
    for (int64_t i = 0; i < LAYOUT_HEADS * l->rows * l->dim; i++) {
        int64_t row = i / l->dim;
        bool stored = row >= LAYOUT_FIRST_ROW && row < l->rows;
        REQUIRE(copy[i] == (stored ? x[i] : 0xffff), "element %d of the stored box is %04x", (int)i, copy[i]);
    }
}

static void check_products(const float *S, const float *O, const uint16_t *x, const struct layout *l)
{
    for (int64_t q = 0; q < LAYOUT_QUERIES; q++) {
        for (int64_t key = 0; key < l->keys; key++) {
            uint16_t want = in_box(x, l, key, LAYOUT_COLUMN(q, l->dim));
            REQUIRE(S[q * l->keys + key] == element(&want, l->dtype, 0), "Q K^T (%d, %d) is %g", (int)q, (int)key,
                    S[q * l->keys + key]);
        }
        for (int64_t c = 0; c < l->dim; c++) {
            uint16_t want = in_box(x, l, LAYOUT_KEY(q, l->keys), c);
            REQUIRE(O[q * l->dim + c] == element(&want, l->dtype, 0), "P V (%d, %d) is %g", (int)q, (int)c, O[q * l->dim + c]);
        }
    }
}

static void check_pattern(struct layout l, enum pattern pattern)
{
    int64_t size = LAYOUT_HEADS * l.rows * l.dim;
    uint16_t *q = calloc((size_t)(LAYOUT_QUERIES * l.dim), 2), *x = malloc((size_t)size * 2);
    for (int64_t i = 0; i < LAYOUT_QUERIES; i++)
        element_set(q, l.dtype, i * l.dim + LAYOUT_COLUMN(i, l.dim), 1);
    for (int64_t i = 0; i < size; i++) {
        x[i] = (uint16_t)i;
        if (pattern != NUMBER)
            element_set(x, l.dtype, i, (float)(pattern == ROW ? i / l.dim % l.rows : i % l.dim));
    }
    struct buffer Q = new_on_gpu(LAYOUT_QUERIES * l.dim, 2, q), X = new_on_gpu(size, 2, x), copy = new_on_gpu(size, 2, NULL),
                  image = new_on_gpu(l.keys * l.dim, 2, NULL), S = new_on_gpu(LAYOUT_QUERIES * l.keys, sizeof(float), NULL),
                  O = new_on_gpu(LAYOUT_QUERIES * l.dim, sizeof(float), NULL);
    l.Q = Q.data, l.X = X.data, l.copy = copy.data, l.image = image.data, l.S = S.data, l.O = O.data;
    hopper_layout(l);
    gpu_finish("the layout of tiles");
    uint16_t *found = taken_from_gpu(&image), *stored = taken_from_gpu(&copy);
    float *s = taken_from_gpu(&S), *o = taken_from_gpu(&O);
    check_image(found, x, &l);
    check_copy(stored, x, &l);
    if (pattern != NUMBER) /* those are bits, not numbers to be multiplied */
        check_products(s, o, x, &l);
    free(found), free(stored), free(s), free(o), free(q), free(x);
    buffer_free(&Q);
    buffer_free(&X);
}

START_TEST(test_layout)
{
    int keys = _i / 2 % 2 ? 128 : 64, dim = _i % 2 ? 128 : 64;
    struct layout l = {
        .dtype = _i / 4 ? BF16 : FP16, .keys = keys, .dim = dim, .rows = LAYOUT_FIRST_ROW + keys - LAYOUT_MISSING
    };
    progress("tiles on a Hopper GPU", "layout");
    for (int pattern = 0; pattern < PATTERNS; pattern++)
        check_pattern(l, (enum pattern)pattern);
}
END_TEST

Suite *layout_gpu_suite(void)
{
    Suite *suite = suite_create("layout_gpu");
    TCase *checks = tcase_create("checks");
    if (gpu_capability() != 90 || !gpu_built_for().hopper)
        printf("skipped: the layout of tiles: it needs a GPU of sm_90, and a build for sm_90a\n");
    else if (!getenv("TESTS_CHECK"))
        tcase_add_loop_test(checks, test_layout, 0, 8);
    suite_add_tcase(suite, checks);
    return suite;
}
