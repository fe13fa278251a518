/* A folder of its own for a test that needs files. */
#ifndef SCRATCH_H
#define SCRATCH_H

#include <stddef.h>

/* For tcase_add_checked_fixture: an empty folder before each test, gone after it. */
void scratch_setup(void);
void scratch_teardown(void);
/* The path of a file there, good until the eighth call from now. */
const char *scratch_path(const char *name);
int scratch_files(void); /* how many files lie there */
void scratch_write(const char *path, const void *data, size_t bytes);
/* The whole file with a zero byte after it; free() it. */
char *scratch_read(const char *path, size_t *bytes);

#endif
