/* A folder of its own for a test that needs files. */
#ifndef FOLDER_H
#define FOLDER_H

#include <stddef.h>

/* For tcase_add_checked_fixture: an empty folder before each test, gone after it. */
void folder_setup(void);
void folder_teardown(void);
/* The path of a file there, good until the eighth call from now. */
const char *folder_path(const char *name);
int folder_files(void); /* how many files lie there */
void folder_write(const char *path, const void *data, size_t bytes);
/* The whole file with a zero byte after it; free() it. */
char *folder_read(const char *path, size_t *bytes);

#endif
