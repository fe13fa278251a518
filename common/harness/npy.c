/*
 * NumPy's .npy files: six magic bytes, a version, the length of a header, the header (a Python dictionary in text, padded so
 * that the numbers start at a multiple of 64 bytes), and the numbers.
 *
 *     \x93NUMPY  \x01 \x00  v \x00  {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }          \n  numbers
 *
 * The length takes 2 bytes in version 1, 4 bytes in versions 2 and 3. A file comes from anywhere, so nothing in it is
 * believed before it agrees with the size of the file. Source: numpy/lib/format.py, "Format Version 1.0" and after.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness.h"
#include "half.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are read and written as they lie in memory");

#define MAGIC "\x93NUMPY"
#define MAGIC_BYTES 6
#define ALIGNMENT 64     /* of the first number */
#define MAX_HEADER 10000 /* NumPy's own limit; it writes less than 300 */
#define SHOWN 40         /* characters of a bad header that a message quotes */

/* ---- messages */

/* Where a message goes. */
struct report {
    const char *path;
    char *why;
    size_t size;
};

/* One line, "FILE: ...". Returns -1, so that a caller can say `return wrong(...)`. */
static int __attribute__((format(printf, 2, 3))) wrong(const struct report *report, const char *format, ...)
{
    char message[256];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    snprintf(report->why, report->size, "%s: %s", report->path, message);
    return -1;
}

/* ---- the header's text */

/* What a header says. */
struct header {
    char descr[16];
    bool fortran;
    int dims;
    int64_t shape[NPY_MAX_DIMS];
};

/* The part that is still to be read. It ends with a zero byte. */
struct text {
    const char *at;
    const struct report *report;
};

/* `what` does not come next. The message shows what does, made harmless for a terminal. */
static int expected(const struct text *text, const char *what)
{
    char shown[SHOWN + 1];
    int n = 0;
    for (; n < SHOWN && text->at[n] && text->at[n] != '\n'; n++)
        shown[n] = text->at[n] >= ' ' && text->at[n] <= '~' ? text->at[n] : '?';
    while (n > 0 && shown[n - 1] == ' ')
        n--;
    shown[n] = 0;
    return wrong(text->report, "header: expected %s, found \"%s\"", what, shown);
}

/* The next character that is not blank. */
static char peek(struct text *text)
{
    text->at += strspn(text->at, " \t\r\n");
    return *text->at;
}

static bool take(struct text *text, char c)
{
    if (peek(text) != c)
        return false;
    text->at++;
    return true;
}

/* A string in single or double quotes, without escapes, shorter than `size`. */
static int parse_string(struct text *text, char *out, size_t size, const char *what)
{
    char quote = peek(text);
    const char *end = quote == '\'' || quote == '"' ? strchr(text->at + 1, quote) : NULL;
    size_t length = end ? (size_t)(end - text->at - 1) : size;
    if (length >= size)
        return expected(text, what);
    memcpy(out, text->at + 1, length);
    out[length] = 0;
    text->at = end + 1;
    return 0;
}

static int parse_bool(struct text *text, bool *out)
{
    *out = peek(text) == 'T';
    const char *word = *out ? "True" : "False";
    if (strncmp(text->at, word, strlen(word)) != 0)
        return expected(text, "True or False");
    text->at += strlen(word);
    return 0;
}

/* (), (3,), (3, 4) or (3, 4,), as Python writes tuples: (3) is a number. */
static int parse_shape(struct text *text, struct header *header)
{
    header->dims = 0;
    if (!take(text, '('))
        return expected(text, "a shape in parentheses");
    while (!take(text, ')')) {
        if (header->dims == NPY_MAX_DIMS)
            return wrong(text->report, "header: a shape of more than %d dimensions", NPY_MAX_DIMS);
        char *end;
        errno = 0;
        long long size = *text->at >= '0' && *text->at <= '9' ? strtoll(text->at, &end, 10) : 0;
        if (*text->at == '0' && size == 0 && strchr(",) ", *end))
            return wrong(text->report, "a size of 0: it holds no numbers; every size must be at least 1");
        if (size < 1 || errno == ERANGE)
            return expected(text, "a size of 1 to 2^63 - 1");
        header->shape[header->dims++] = size;
        text->at = end;
        if (!take(text, ',') && (header->dims == 1 || *text->at != ')'))
            return expected(text, "a comma");
    }
    return 0;
}

/* The three keys, in any order, each once. */
static int parse_header(struct text *text, struct header *header)
{
    static const char *const keys[] = { "descr", "fortran_order", "shape" };
    bool seen[3] = { false };

    if (!take(text, '{'))
        return expected(text, "a dictionary in braces");
    while (!take(text, '}')) {
        char key[16];
        if (parse_string(text, key, sizeof key, "'descr', 'fortran_order' or 'shape'"))
            return -1;
        int k = 0;
        while (k < 3 && strcmp(key, keys[k]) != 0)
            k++;
        if (k == 3 || seen[k])
            return wrong(text->report, "header: keys must be 'descr', 'fortran_order' and 'shape', each once");
        seen[k] = true;
        if (!take(text, ':'))
            return expected(text, "a colon");
        if (k == 0 && parse_string(text, header->descr, sizeof header->descr, "a plain type such as '<f4'"))
            return -1;
        if (k == 1 && parse_bool(text, &header->fortran))
            return -1;
        if (k == 2 && parse_shape(text, header))
            return -1;
        if (!take(text, ',') && *text->at != '}')
            return expected(text, "a comma");
    }
    for (int k = 0; k < 3; k++)
        if (!seen[k])
            return wrong(text->report, "header: '%s' is missing", keys[k]);
    return peek(text) ? expected(text, "the end") : 0;
}

/* ---- reading */

/* How a file has its numbers, and how they are here: integers, as page tables have them, become FP64. */
static const struct type {
    const char *descr;
    enum dtype dtype;
    int bytes; /* of one in the file */
    bool integer;
} types[] = { { "<f2", FP16, 2, false }, { "<f4", FP32, 4, false }, { "<f8", FP64, 8, false }, { "<i4", FP64, 4, true },
              { "<i8", FP64, 8, true } };

/* NULL, and a message, if it is none of them. */
static const struct type *parse_type(const char *descr, const struct report *report)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(descr, types[i].descr) == 0)
            return &types[i];
    wrong(report, "%s; '<f2', '<f4', '<f8' (fp16, fp32, fp64), '<i4' and '<i8' are read: save x.astype('<f4')",
          descr[0] == '>' ? "big-endian numbers" : "not of a type that is read");
    return NULL;
}

/* In place: `count` integers of so many bytes, at the end of the room that they need as doubles. */
static void make_doubles(double *room, int64_t count, int bytes)
{
    const char *from = (char *)(room + count) - count * bytes;
    for (int64_t i = 0; i < count; i++) {
        int32_t narrow = 0;
        int64_t wide = 0;
        memcpy(bytes == 4 ? (void *)&narrow : &wide, from + i * bytes, (size_t)bytes);
        room[i] = (double)(bytes == 4 ? narrow : wide);
    }
}

/* Read up to the first number: the header's text, with a zero byte after it. Returns the bytes read, or -1. */
static int64_t read_text(FILE *file, char text[MAX_HEADER + 1], const struct report *report)
{
    unsigned char start[12] = { 0 };
    if (fread(start, 1, 10, file) != 10 || memcmp(start, MAGIC, MAGIC_BYTES) != 0)
        return wrong(report, "not a .npy file: it does not start with \\x93NUMPY and a version");
    if (start[6] < 1 || start[6] > 3 || start[7] != 0)
        return wrong(report, ".npy version %d.%d; 1.0, 2.0 and 3.0 are read", start[6], start[7]);
    int prefix = start[6] == 1 ? 10 : 12;
    if (fread(start + 10, 1, (size_t)prefix - 10, file) != (size_t)prefix - 10)
        return wrong(report, "cut off inside its header");
    uint32_t length = start[8] | (uint32_t)start[9] << 8 | (uint32_t)start[10] << 16 | (uint32_t)start[11] << 24;
    if (length > MAX_HEADER)
        return wrong(report, "a header of %u bytes; at most %d are read", length, MAX_HEADER);
    if (fread(text, 1, length, file) != length)
        return wrong(report, "cut off inside its header");
    text[length] = 0;
    if (strlen(text) != length)
        return wrong(report, "header: a zero byte");
    return prefix + (int64_t)length;
}

/* Read the header of an open file of `total` bytes. Returns how many numbers follow, and of which type, or -1. */
static int64_t read_header(FILE *file, int64_t total, struct npy *out, const struct type **type, const struct report *report)
{
    char string[MAX_HEADER + 1];
    int64_t offset = read_text(file, string, report);
    if (offset < 0)
        return -1;
    struct header header;
    struct text text = { string, report };
    if (parse_header(&text, &header))
        return -1;
    if (!(*type = parse_type(header.descr, report)))
        return -1;
    if (header.fortran)
        return wrong(report, "Fortran order; only C order is read: save numpy.ascontiguousarray(x)");

    int64_t bytes = (*type)->bytes, held = total - offset;
    out->dtype = (*type)->dtype;
    out->dims = header.dims;
    for (int d = 0; d < header.dims; d++) {
        out->shape[d] = header.shape[d];
        if (__builtin_mul_overflow(bytes, header.shape[d], &bytes))
            return wrong(report, "a shape of more than 2^63 bytes");
    }
    if (held != bytes)
        return wrong(report, "%s: its shape needs %lld bytes of numbers, it holds %lld", held < bytes ? "cut off" : "too long",
                     (long long)bytes, (long long)held);
    return bytes / (*type)->bytes;
}

/* The part of npy_read between open and close. */
static int read_open_file(FILE *file, int64_t total, struct npy *out, bool numbers, const struct report *report)
{
    const struct type *type;
    int64_t count = read_header(file, total, out, &type, report);
    if (count < 0 || !numbers)
        return count < 0 ? -1 : 0;
    size_t room = (size_t)count * dtype_bytes(out->dtype), bytes = (size_t)(count * type->bytes);
    if (room > cpu_device.memory() || !(out->data = malloc(room)))
        return wrong(report, "too little memory: it needs %.1f MB, %.1f MB are free", (double)room / 1e6,
                     (double)cpu_device.memory() / 1e6);
    if (fread((char *)out->data + room - bytes, 1, bytes, file) == bytes) {
        if (type->integer)
            make_doubles(out->data, count, type->bytes);
        return 0;
    }
    int reason = errno;
    free(out->data);
    out->data = NULL;
    return wrong(report, ferror(file) ? "cannot be read: %s" : "shrank while it was read", strerror(reason));
}

static int read_path(const char *path, struct npy *out, bool numbers, char *why, size_t size)
{
    const struct report report = { path, why, size };
    *out = (struct npy){ 0 };
    /* Without O_NONBLOCK, opening a pipe would wait for its other end for ever. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return wrong(&report, "cannot be opened: %s", strerror(errno));
    struct stat status;
    FILE *file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) ? fdopen(fd, "rb") : NULL;
    if (!file) {
        close(fd);
        return wrong(&report, "not a regular file");
    }
    int result = read_open_file(file, status.st_size, out, numbers, &report);
    fclose(file);
    return result;
}

int npy_read(const char *path, struct npy *out, char *why, size_t size)
{
    return read_path(path, out, true, why, size);
}

int npy_read_header(const char *path, struct npy *out, char *why, size_t size)
{
    return read_path(path, out, false, why, size);
}

/* ---- writing */

/* The magic, the header and its padding, into `out`. Returns their length. */
static size_t format_header(char *out, size_t size, const char *descr, int dims, const int64_t *shape)
{
    size_t n = MAGIC_BYTES + 4;
    n += (size_t)snprintf(out + n, size - n, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int d = 0; d < dims; d++)
        n += (size_t)snprintf(out + n, size - n, "%s%lld", d ? ", " : "", (long long)shape[d]);
    n += (size_t)snprintf(out + n, size - n, "%s), }", dims == 1 ? "," : "");
    while ((n + 1) % ALIGNMENT != 0)
        out[n++] = ' ';
    out[n++] = '\n';
    size_t length = n - MAGIC_BYTES - 4;
    memcpy(out, MAGIC "\x01\x00", MAGIC_BYTES + 2);
    out[MAGIC_BYTES + 2] = (char)(length & 0xff);
    out[MAGIC_BYTES + 3] = (char)(length >> 8);
    return n;
}

/* The numbers of a bf16 tensor, which NumPy has no name for, as fp32. */
static void write_bf16(FILE *file, const bf16 *x, size_t count)
{
    float chunk[1024];
    for (size_t done = 0; done < count && !ferror(file);) {
        size_t n = count - done < 1024 ? count - done : 1024;
        for (size_t i = 0; i < n; i++)
            chunk[i] = bf16_to_float(x[done + i]);
        done += fwrite(chunk, sizeof *chunk, n, file);
    }
}

/* The header and the numbers. What goes wrong, closing the file tells. */
static void write_numbers(FILE *file, const void *data, enum dtype dtype, int dims, const int64_t *shape)
{
    static const char *const descr[] = { [FP32] = "<f4", [FP16] = "<f2", [BF16] = "<f4", [FP64] = "<f8" };
    char header[512];
    size_t length = format_header(header, sizeof header, descr[dtype], dims, shape), count = 1;
    for (int d = 0; d < dims; d++)
        count *= (size_t)shape[d];
    fwrite(header, 1, length, file);
    if (dtype == BF16)
        write_bf16(file, data, count);
    else if (!ferror(file))
        fwrite(data, dtype_bytes(dtype), count, file);
}

int npy_write(const char *path, const void *data, enum dtype dtype, int dims, const int64_t *shape, char *why, size_t size)
{
    const struct report report = { path, why, size };
    if (dims < 0 || dims > NPY_MAX_DIMS)
        return wrong(&report, "%d dimensions; 0 to %d can be written", dims, NPY_MAX_DIMS);
    for (int d = 0; d < dims; d++)
        if (shape[d] < 1)
            return wrong(&report, "a size of %lld; sizes must be above 0", (long long)shape[d]);
    FILE *file = open_whole(path);
    if (!file)
        return wrong(&report, "cannot be written: %s", strerror(errno));
    write_numbers(file, data, dtype, dims, shape);
    return close_whole(file) ? wrong(&report, "cannot be written: %s", strerror(errno)) : 0;
}
