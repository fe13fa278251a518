/* Folders for tests, in the system's place for temporary files. */
#include "folder.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "suites.h"

static char folder[256];

void folder_setup(void)
{
    snprintf(folder, sizeof folder, "%s/softmax-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : P_tmpdir);
    ck_assert(mkdtemp(folder) != NULL);
}

const char *folder_path(const char *name)
{
    static char paths[8][512];
    static unsigned next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Counts the folder's entries, and removes them if asked to. */
static int each_file(int remove_them)
{
    DIR *dir = opendir(folder);
    ck_assert(dir != NULL);
    int count = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        if (remove_them)
            remove(folder_path(entry->d_name));
    }
    closedir(dir);
    return count;
}

int folder_files(void)
{
    return each_file(0);
}

void folder_teardown(void)
{
    each_file(1);
    rmdir(folder);
}

void folder_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    ck_assert(file && fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0);
}

char *folder_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "%s is not there", path);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    char *data = calloc(*bytes + 1, 1);
    ck_assert(data && fread(data, 1, *bytes, file) == *bytes);
    fclose(file);
    return data;
}
