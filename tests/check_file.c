/* common/harness/file.c: a file appears whole or not at all, where
   it was asked for, and nothing else is left, whatever happens. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "folder.h"
#include "suites.h"

static void assert_holds(const char *path, const char *want)
{
    size_t bytes;
    char *text = folder_read(path, &bytes);
    ck_assert_str_eq(text, want);
    free(text);
}

static void write_whole(const char *path, const char *text)
{
    FILE *file = open_whole(path);
    ck_assert_msg(file != NULL, "%s: %s", path, strerror(errno));
    fputs(text, file);
    ck_assert_msg(close_whole(file) == 0, "%s: %s", path, strerror(errno));
}

static void assert_cannot(const char *path, int why)
{
    int files = folder_files();
    FILE *file = open_whole(path);
    ck_assert_msg(file == NULL && errno == why, "%s: %s", path, file ? "it can be opened" : strerror(errno));
    ck_assert_int_eq(folder_files(), files);
}

START_TEST(test_new_and_old)
{
    const char *path = folder_path("y");
    FILE *file = open_whole(path);
    fputs("one", file);
    fflush(file);
    ck_assert(access(path, F_OK) != 0); /* not yet */
    ck_assert(close_whole(file) == 0);
    assert_holds(path, "one");
    write_whole(path, "two");
    assert_holds(path, "two");
    file = open_whole(path);
    fputs("three", file);
    discard_whole(file);
    assert_holds(path, "two");
    ck_assert_int_eq(folder_files(), 1);
}
END_TEST

/* As open() makes them; and what takes a file's place has its permissions. */
START_TEST(test_permissions)
{
    struct stat status;
    mode_t mask = umask(027);
    write_whole(folder_path("new"), "x");
    umask(mask);
    ck_assert(stat(folder_path("new"), &status) == 0 && (status.st_mode & 0777) == 0640);
    ck_assert(chmod(folder_path("new"), 0606) == 0);
    write_whole(folder_path("new"), "x");
    ck_assert(stat(folder_path("new"), &status) == 0 && (status.st_mode & 0777) == 0606);
}
END_TEST

START_TEST(test_symbolic_links_stay)
{
    struct stat status;
    ck_assert(mkdir(folder_path("folder"), 0700) == 0);
    folder_write(folder_path("folder/y"), "old", 3);
    ck_assert(symlink("folder/y", folder_path("relative")) == 0 &&
              symlink(folder_path("relative"), folder_path("absolute")) == 0);
    ck_assert(symlink("folder/new", folder_path("dangling")) == 0 && symlink("loop", folder_path("loop")) == 0);
    write_whole(folder_path("absolute"), "new");
    assert_holds(folder_path("folder/y"), "new");
    write_whole(folder_path("dangling"), "first");
    assert_holds(folder_path("folder/new"), "first");
    static const char *const links[] = { "relative", "absolute", "dangling" };
    for (int i = 0; i < 3; i++)
        ck_assert(lstat(folder_path(links[i]), &status) == 0 && S_ISLNK(status.st_mode));
    assert_cannot(folder_path("loop"), ELOOP);
    ck_assert(unlink(folder_path("folder/y")) == 0 && unlink(folder_path("folder/new")) == 0);
}
END_TEST

START_TEST(test_read_only_files_stay)
{
    const char *path = folder_path("y");
    folder_write(path, "precious", 8);
    ck_assert(chmod(path, 0444) == 0); /* root could write it all the same */
    assert_cannot(path, EACCES);
    assert_holds(path, "precious");
}
END_TEST

/* As long as a name may be, and a character longer. */
START_TEST(test_long_names)
{
    char name[NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    name[NAME_MAX + 1] = '\0';
    assert_cannot(folder_path(name), ENAMETOOLONG);
    name[NAME_MAX] = '\0';
    write_whole(folder_path(name), "x");
    assert_holds(folder_path(name), "x");
}
END_TEST

START_TEST(test_what_is_no_file)
{
    ck_assert(mkdir(folder_path("folder"), 0700) == 0 && mkfifo(folder_path("pipe"), 0600) == 0);
    assert_cannot(folder_path("folder"), EISDIR);
    assert_cannot(folder_path("missing/y"), ENOENT);
    assert_cannot("", ENOENT);
    assert_cannot(folder_path("pipe"), ENXIO); /* nobody reads: at once, and not for ever */
    int reader = open(folder_path("pipe"), O_RDONLY | O_NONBLOCK);
    write_whole(folder_path("pipe"), "through");
    char text[8] = "";
    ck_assert(read(reader, text, 7) == 7 && strcmp(text, "through") == 0);
    close(reader);
    struct stat status;
    write_whole("/dev/null", "x");
    ck_assert(stat("/dev/null", &status) == 0 && S_ISCHR(status.st_mode));
    if (access("/dev/full", F_OK) == 0) {
        FILE *file = open_whole("/dev/full");
        ck_assert(file && fputs("x", file) >= 0 && close_whole(file) == -1 && errno == ENOSPC);
    }
    ck_assert(writable_whole("/dev/null") && !writable_whole(folder_path("folder")) &&
              !writable_whole(folder_path("missing/y")));
    ck_assert_int_eq(folder_files(), 2);
}
END_TEST

/* A table that is a pipe which nobody writes: it is empty, and not waited for. */
START_TEST(test_tables)
{
    ck_assert(mkfifo(folder_path("pipe"), 0600) == 0);
    FILE *file = open_table(folder_path("pipe"));
    ck_assert(file && fgetc(file) == EOF);
    fclose(file);
    ck_assert(open_table(folder_path("table")) == NULL && errno == ENOENT);
}
END_TEST

/* A file without a name, which /proc has one for: its place is not a path. */
START_TEST(test_deleted_file)
{
    char path[64];
    folder_write(folder_path("gone"), "x", 1);
    int fd = open(folder_path("gone"), O_RDWR);
    unlink(folder_path("gone"));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (access(path, F_OK) == 0)
        assert_cannot(path, ENOENT);
    close(fd);
}
END_TEST

/* More than the file system takes: the old file is still there.
   `ulimit -f` stands for a full disk; its signal must not end us. */
START_TEST(test_full_disk)
{
    const char *path = folder_path("y");
    folder_write(path, "old", 3);
    struct rlimit limit = { 4096, RLIM_INFINITY };
    ck_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    FILE *file = open_whole(path);
    for (int i = 0; i < 5000; i++)
        fputc('x', file);
    ck_assert(close_whole(file) == -1 && errno == EFBIG);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_holds(path, "old");
    ck_assert_int_eq(folder_files(), 1);
}
END_TEST

static const int signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };

/* A signal in the middle: it ends the program as it would have, and leaves the old file and nothing else. So does exit(). */
START_TEST(test_signals_leave_nothing_behind)
{
    const char *path = folder_path("y");
    folder_write(path, "old", 3);
    pid_t child = fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        for (int i = 0; i < 4; i++)
            signal(signals[i], SIG_DFL); /* Check has handlers of its own */
        FILE *file = open_whole(path);
        fputs("half of the new one", file);
        fflush(file);
        if (folder_files() != 2) /* the temporary is there */
            _exit(3);
        if (_i == 4)
            exit(0);
        raise(signals[_i]);
        _exit(4);
    }
    int status;
    ck_assert(waitpid(child, &status, 0) == child);
    if (_i == 4)
        ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    else
        ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == signals[_i], "ended with status %x", status);
    assert_holds(path, "old");
    ck_assert_int_eq(folder_files(), 1);
}
END_TEST

/* What is ignored stays so: a program under nohup goes on. */
START_TEST(test_ignored_signals_stay_ignored)
{
    signal(SIGHUP, SIG_IGN);
    FILE *file = open_whole(folder_path("y"));
    raise(SIGHUP);
    fputs("all", file);
    ck_assert(close_whole(file) == 0);
    assert_holds(folder_path("y"), "all");
}
END_TEST

/* Files that look like a temporary, of this process or another, are in nobody's way. */
START_TEST(test_stale_temporaries)
{
    char name[64];
    static const char *const patterns[] = { "y.%ld.tmp", "y.%ld", ".unfinished-%016ld" };
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, patterns[i], (long)getpid());
        folder_write(folder_path(name), "stale", 5);
    }
    write_whole(folder_path("y"), "x");
    ck_assert_int_eq(folder_files(), 4);
}
END_TEST

START_TEST(test_same_file)
{
    char other[512];
    ck_assert(mkdir(folder_path("folder"), 0700) == 0);
    folder_write(folder_path("x"), "x", 1);
    folder_write(folder_path("z"), "x", 1);
    ck_assert(symlink("x", folder_path("link")) == 0 && link(folder_path("x"), folder_path("hard")) == 0);
    ck_assert(symlink("new", folder_path("dangling")) == 0 && symlink(".", folder_path("here")) == 0);
    static const struct { const char *a, *b; bool same; } all[] = {
        { "x", "x", true }, { "x", "folder/../x", true }, { "x", ".//x", true }, { "x", "link", true }, { "x", "hard", true },
        { "x", "here/here/link", true }, { "new", "new", true }, { "new", "folder/../new", true }, { "new", "here/new", true },
        { "new", "dangling", true }, { "x", "z", false }, { "x", "new", false }, { "new", "newer", false },
        { "new", "folder/new", false }, { "missing/new", "missing/new", false }, { "folder", "folder", false },
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        snprintf(other, sizeof other, "%s", folder_path(all[i].b));
        ck_assert_msg(same_file(folder_path(all[i].a), other) == all[i].same, "%s and %s", all[i].a, all[i].b);
        ck_assert_msg(same_file(other, folder_path(all[i].a)) == all[i].same, "%s and %s", all[i].b, all[i].a);
    }
    ck_assert(!same_file("/dev/null", "/dev/null")); /* writing it twice overwrites nothing */
}
END_TEST

/* ---- error.c: what a terminal gets to see */

START_TEST(test_printable)
{
    static const struct { const char *text, *shown; } all[] = {
        { "plain 'text' ~", "plain 'text' ~" },
        { "two\nlines", "two\\nlines" },
        { "\x1b[31mred\x07\r\t\x7f", "\\x1b[31mred\\x07\\x0d\\x09\\x7f" },
        { "donn\xc3\xa9" "es \xe2\x82\xac \xf0\x9f\x98\x80", "donn\xc3\xa9" "es \xe2\x82\xac \xf0\x9f\x98\x80" },
        { "\x9b" "31m \xc2\x9b" "31m", "\\x9b31m \\xc2\\x9b31m" },  /* CSI, in Latin-1 and in UTF-8 */
        { "cut \xe2\x82", "cut \\xe2\\x82" },
        { "\xc3(", "\\xc3(" },
        { "\xff\xc0\x80", "\\xff\\xc0\\x80" },
        { "", "" },
    };
    char out[256];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        printable(out, sizeof out, all[i].text);
        ck_assert_str_eq(out, all[i].shown);
    }
    for (size_t size = 6; size < 30; size++) {
        memset(out, '#', sizeof out);
        printable(out, size, "a\n\x1b\xe2\x82\xac" "bcdefghijklmnop");
        ck_assert(strlen(out) < size && out[size] == '#');
    }
}
END_TEST

Suite *file_suite(void)
{
    Suite *suite = suite_create("file");
    TCase *whole = tcase_create("whole"), *error = tcase_create("error");
    tcase_add_checked_fixture(whole, folder_setup, folder_teardown);
    suite_add_tcase(suite, whole);
    suite_add_tcase(suite, error);
    tcase_add_test(whole, test_new_and_old);
    tcase_add_test(whole, test_permissions);
    tcase_add_test(whole, test_symbolic_links_stay);
    tcase_add_test(whole, test_read_only_files_stay);
    tcase_add_test(whole, test_long_names);
    tcase_add_test(whole, test_what_is_no_file);
    tcase_add_test(whole, test_tables);
    tcase_add_test(whole, test_deleted_file);
    tcase_add_test(whole, test_full_disk);
    tcase_add_loop_test(whole, test_signals_leave_nothing_behind, 0, 5);
    tcase_add_test(whole, test_ignored_signals_stay_ignored);
    tcase_add_test(whole, test_stale_temporaries);
    tcase_add_test(whole, test_same_file);
    tcase_add_test(error, test_printable);
    return suite;
}
