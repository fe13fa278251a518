/*
 * Files that appear whole or not at all. What is written goes to a temporary file in the same folder, which takes the place of
 * the old one by a rename when all is on disk: a full disk, a signal or exit() in between leaves the old file as it was, and
 * nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#ifndef PATH_MAX
#define PATH_MAX 4096
#endif
#define MOST_LINKS 40 /* that are followed, as Linux has it */

/* The file that is being written, one at a time. `temporary` must be removed, whatever happens, while `unfinished` is set. */
static char target[PATH_MAX], temporary[PATH_MAX];
static volatile sig_atomic_t unfinished;

/* ---- paths */

/* Follow the symbolic links that `path` itself is (the kernel follows those on the way), to a file that need not exist. */
static bool follow(const char *path, char *out)
{
    char link[PATH_MAX];
    size_t length = strlen(path);
    if (length >= PATH_MAX)
        return errno = ENAMETOOLONG, false;
    memcpy(out, path, length + 1);
    for (int links = 0; (length = (size_t)readlink(out, link, sizeof link - 1)) != (size_t)-1; links++) {
        char *name = strrchr(out, '/') ? strrchr(out, '/') + 1 : out;
        size_t folder = link[0] == '/' ? 0 : (size_t)(name - out); /* a relative link starts where the link lies */
        if (links == MOST_LINKS)
            return errno = ELOOP, false;
        if (folder + length >= PATH_MAX)
            return errno = ENAMETOOLONG, false;
        memcpy(out + folder, link, length);
        out[folder + length] = '\0';
    }
    return true;
}

/* Where the name starts in a path: behind the last slash. */
static int name_at(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (int)(slash - path) + 1 : 0;
}

static bool same_inode(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

bool same_file(const char *a, const char *b)
{
    char path[2][PATH_MAX], folder[PATH_MAX + 2];
    struct stat at[2];
    if (!follow(a, path[0]) || !follow(b, path[1]))
        return false;
    int missing = (stat(path[0], &at[0]) != 0) + (stat(path[1], &at[1]) != 0);
    if (missing == 0)
        return S_ISREG(at[0].st_mode) && same_inode(&at[0], &at[1]);
    if (missing == 1 || strcmp(path[0] + name_at(path[0]), path[1] + name_at(path[1])) != 0)
        return false;
    for (int i = 0; i < 2; i++) { /* neither is there: the same name in the same folder is the same file */
        snprintf(folder, sizeof folder, "%.*s.", name_at(path[i]), path[i]);
        if (stat(folder, &at[i]) != 0)
            return false;
    }
    return same_inode(&at[0], &at[1]);
}

void make_folder(const char *path)
{
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%.*s", name_at(path), path);
    mkdir(folder, 0777); /* if it fails, opening the file says why */
}

/* ---- what is left behind: nothing */

static void remove_unfinished(void)
{
    if (unfinished)
        unlink(temporary);
    unfinished = 0;
}

/* Signals end the program as they would have: the default action is back when the handler returns. */
static void remove_and_end(int signal_number)
{
    remove_unfinished();
    raise(signal_number);
}

static void clean_up_at_the_end(void)
{
    static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU };
    static bool prepared;
    if (prepared)
        return;
    prepared = true;
    atexit(remove_unfinished);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
        struct sigaction before, ours = { .sa_handler = remove_and_end, .sa_flags = (int)SA_RESETHAND };
        /* what is ignored, by nohup say, stays so */
        if (sigaction(signals[i], NULL, &before) == 0 && before.sa_handler == SIG_DFL)
            sigaction(signals[i], &ours, NULL);
    }
    signal(SIGXFSZ, SIG_IGN); /* a file larger than `ulimit -f` allows is then an error of write(), with a line that says so */
}

/* ---- writing */

/* A file that nobody has: O_EXCL, and a name too random to meet one
   by chance. It is short, so that any target's name may be long. */
static int create_temporary(const struct stat *old)
{
    static uint64_t counter;
    for (int attempt = 0; attempt < 100; attempt++) {
        struct timespec time;
        clock_gettime(CLOCK_REALTIME, &time);
        uint64_t bits = random_bits((uint64_t)time.tv_sec << 30 ^ (uint64_t)time.tv_nsec, (uint64_t)getpid() << 32 | counter++);
        int length = snprintf(temporary, sizeof temporary, "%.*s.unfinished-%016llx", name_at(target), target,
                              (unsigned long long)bits);
        if (length >= (int)sizeof temporary)
            return errno = ENAMETOOLONG, -1;
        unfinished = 1; /* before it exists: a signal may come at any time */
        int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0 && old)
            fchmod(fd, old->st_mode & 0777);
        if (fd >= 0)
            return fd;
        unfinished = 0;
        if (errno != EEXIST)
            return -1;
    }
    return -1;
}

/* open(), but nothing is waited for: a pipe that nobody writes is empty, and one that nobody reads is an error. */
static int open_at_once(const char *path, int flags)
{
    int fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd >= 0)
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    return fd;
}

FILE *open_table(const char *path)
{
    int fd = open_at_once(path, O_RDONLY);
    return fd >= 0 ? fdopen(fd, "r") : NULL;
}

FILE *open_whole(const char *path)
{
    struct stat old, there;
    clean_up_at_the_end();
    bool exists = stat(path, &old) == 0;
    if (!exists && (errno != ENOENT || !*path))
        return NULL;
    if (exists && S_ISDIR(old.st_mode))
        return errno = EISDIR, NULL;
    if (exists && (access(path, W_OK) != 0 || !(old.st_mode & 0222))) /* root may write it, but it says that it wants to stay */
        return errno = EACCES, NULL;
    bool in_place = exists && !S_ISREG(old.st_mode);
    if (!in_place && !follow(path, target))
        return NULL;
    if (!in_place && exists && (stat(target, &there) != 0 || !same_inode(&old, &there)))
        return errno = ENOENT, NULL; /* a name in /proc of a file that has none */
    int fd = in_place ? open_at_once(path, O_WRONLY) : create_temporary(exists ? &old : NULL); /* a device is written as it is */
    FILE *file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!file) {
        int why = errno;
        if (fd >= 0)
            close(fd);
        remove_unfinished();
        errno = why;
    }
    return file;
}

int close_whole(FILE *file)
{
    int why = ferror(file) ? errno : 0;
    if (ferror(file) && !why)
        why = EIO;
    if (fclose(file) != 0 && !why)
        why = errno;
    if (!why && unfinished && rename(temporary, target) != 0)
        why = errno;
    if (!why)
        unfinished = 0; /* it has its name now */
    remove_unfinished();
    errno = why;
    return why ? -1 : 0;
}

bool writable_whole(const char *path)
{
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode))
        return access(path, W_OK) == 0; /* opening a pipe and closing it again would tell its reader that all was said */
    FILE *file = open_whole(path);
    if (file)
        discard_whole(file);
    return file != NULL;
}

void discard_whole(FILE *file)
{
    fclose(file);
    remove_unfinished();
}
