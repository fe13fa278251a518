/*
 * A libFuzzer harness for the .npy reader: any bytes are a file; whatever is read must agree with the file's size, whatever is
 * refused must be one printable line, and what is read must survive a round trip. `make fuzz` runs it for a minute.
 */
#define _GNU_SOURCE /* memfd_create */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "harness.h"

/* The bytes that x holds. */
static size_t bytes_of(const struct npy *x)
{
    size_t bytes = dtype_bytes(x->dtype);
    for (int d = 0; d < x->dims; d++)
        bytes *= (size_t)x->shape[d];
    return bytes;
}

static void round_trip(const struct npy *x)
{
    static char path[64];
    if (!path[0])
        snprintf(path, sizeof path, "%s/fuzz_npy.%ld.npy", P_tmpdir, (long)getpid());
    struct npy again;
    char why[256];
    REQUIRE(npy_write(path, x->data, x->dtype, x->dims, x->shape, why, sizeof why) == 0);
    REQUIRE(npy_read(path, &again, why, sizeof why) == 0);
    REQUIRE(again.dtype == x->dtype && again.dims == x->dims && memcmp(again.shape, x->shape, sizeof x->shape) == 0);
    REQUIRE(memcmp(again.data, x->data, bytes_of(x)) == 0);
    free(again.data);
    unlink(path);
}

/* Whatever a message quotes, a terminal sees printable characters, in one line. */
static void show(const uint8_t *data, size_t size)
{
    char text[256], out[600];
    size_t length = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, length);
    text[length] = '\0';
    printable(out, sizeof out, text);
    for (const unsigned char *c = (const unsigned char *)out; *c; c++)
        REQUIRE(*c >= ' ' && *c != 0x7f && !(c[0] == 0xc2 && c[1] < 0xa0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    show(data, size);
    char path[64], why[256] = "";
    int fd = memfd_create("x.npy", 0);
    REQUIRE(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);

    struct npy x;
    if (npy_read(path, &x, why, sizeof why) == 0) {
        size_t bytes = bytes_of(&x);
        REQUIRE(x.data && bytes > 0 && bytes < size && why[0] == 0);
        REQUIRE(memcmp(x.data, data + size - bytes, bytes) == 0);
        round_trip(&x);
        free(x.data);
    } else {
        REQUIRE(x.data == NULL && strncmp(why, path, strlen(path)) == 0);
        for (const char *c = why; *c; c++)
            REQUIRE(*c >= ' ' && *c <= '~');
    }
    close(fd);
    return 0;
}
