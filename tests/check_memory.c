/* common/harness/memory.c: buffers that show what was never written, and what was written outside. */
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "half.h"
#include "folder.h"
#include "suites.h"

static const size_t sizes[] = {
    1, 2, 4, 63, 64, 4095, 4096, 4097, 1000003, (2 << 20) - 2 * GUARD_BYTES, (2 << 20) - GUARD_BYTES
};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

START_TEST(test_starts_as_nan)
{
    struct buffer b = buffer_new(sizes[_i], &cpu_device);
    ck_assert(b.bytes == sizes[_i] && b.device == &cpu_device && (uintptr_t)b.data % 64 == 0);
    for (size_t i = 0; i < b.bytes; i++)
        REQUIRE(((unsigned char *)b.data)[i] == 0xff, "byte %zu", i);
    for (size_t i = 0; i < b.bytes / 4; i++) {
        REQUIRE(isnan(((float *)b.data)[i]), "float %zu", i);
        REQUIRE(isnan(fp16_to_float(((fp16 *)b.data)[i])) && isnan(bf16_to_float(((bf16 *)b.data)[i])), "half %zu", i);
    }
    ck_assert(buffer_guards_intact(&b));
    buffer_free(&b);
    ck_assert(b.data == NULL);
}
END_TEST

START_TEST(test_writes_inside_are_fine)
{
    struct buffer b = buffer_new(sizes[_i], &cpu_device);
    memset(b.data, 0, b.bytes);
    ck_assert(buffer_guards_intact(&b));
    buffer_free(&b);
}
END_TEST

/* One byte, anywhere in the bands. */
START_TEST(test_writes_outside_show)
{
    struct buffer b = buffer_new(sizes[_i], &cpu_device);
    unsigned char *data = b.data;
    for (int distance = 1; distance <= GUARD_BYTES; distance += distance < 70 ? 1 : 67) {
        unsigned char *outside[] = { data - distance, data + b.bytes - 1 + distance };
        for (int side = 0; side < 2; side++) {
            *outside[side] = 0;
            REQUIRE(!buffer_guards_intact(&b), "a write %d bytes outside of %zu is not seen", distance, b.bytes);
            *outside[side] = 0xff;
            REQUIRE(buffer_guards_intact(&b), "the bands do not recover");
        }
    }
    buffer_free(&b);
}
END_TEST

START_TEST(test_poison_again)
{
    struct buffer b = buffer_new(sizes[_i], &cpu_device);
    memset((char *)b.data - 1, 0, b.bytes + 2);
    buffer_poison(&b);
    ck_assert(buffer_guards_intact(&b));
    for (size_t i = 0; i < b.bytes; i++)
        REQUIRE(((unsigned char *)b.data)[i] == 0xff, "byte %zu", i);
    buffer_free(&b);
}
END_TEST

/* With GUARD_PAGES the data end where a page begins that cannot be touched: a read of the first byte behind them is a crash. */
START_TEST(test_guard_pages)
{
    setenv("GUARD_PAGES", "1", 1);
    struct buffer b = buffer_new(sizes[_i], &cpu_device);
    unsigned char *data = b.data;
    for (size_t i = 0; i < b.bytes; i++)
        REQUIRE(data[i] == 0xff, "byte %zu", i);
    memset(data, 0, b.bytes);
    ck_assert(b.bytes == sizes[_i] && buffer_guards_intact(&b));
    for (int write = 0; write < 2; write++) {
        pid_t child = fork();
        if (child == 0) {
            signal(SIGSEGV, SIG_DFL);
            signal(SIGBUS, SIG_DFL);
            volatile unsigned char *behind = data + b.bytes;
            if (write)
                *behind = 1;
            _exit(*behind);
        }
        int status;
        ck_assert(waitpid(child, &status, 0) == child);
        ck_assert_msg(WIFSIGNALED(status), "byte %zu of %zu can be %s", b.bytes + 1, b.bytes, write ? "written" : "read");
    }
    data[-1] = 0;
    ck_assert(!buffer_guards_intact(&b));
    buffer_poison(&b);
    ck_assert(buffer_guards_intact(&b) && data[b.bytes - 1] == 0xff);
    buffer_free(&b);
}
END_TEST

START_TEST(test_too_much_memory_ends_with_status_1)
{
    static const size_t too_much[] = { (size_t)1 << 45, (size_t)1 << 62 };
    ck_assert(cpu_device.memory() > 0);
    ck_assert(freopen("/dev/null", "w", stderr) != NULL);
    buffer_new(too_much[_i], &cpu_device);
}
END_TEST

/* ---- how much there is: the least of what the machine has and what
   each control group leaves, from this process's up to the root */

/* Files below the scratch folder, as /proc and /sys would have them. */
static void put(const char *path, const char *text)
{
    char folder[512];
    for (const char *slash = path; (slash = strchr(slash + 1, '/'));) {
        snprintf(folder, sizeof folder, "%s", folder_path(path));
        folder[strlen(folder) - strlen(slash)] = '\0';
        mkdir(folder, 0700);
    }
    folder_write(folder_path(path), text, strlen(text));
}

static void put_group(const char *folder, const char *limit_name, const char *limit, const char *used_name, const char *used)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, limit_name);
    put(path, limit);
    snprintf(path, sizeof path, "%s/%s", folder, used_name);
    put(path, used);
}

static void remove_tree(void)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s'/*", folder_path("."));
    ck_assert(system(command) == 0);
}

static void assert_available(size_t want)
{
    size_t have = cpu_memory_available(folder_path("."));
    ck_assert_msg(have == want, "%zu bytes are available, not %zu", have, want);
}

START_TEST(test_control_groups_v2)
{
    put("proc/meminfo", "MemTotal:  8000 kB\nMemAvailable:  6000 kB\n");
    assert_available(6000 << 10);
    put("proc/self/cgroup", "0::/user/job\n");
    put_group("sys/fs/cgroup/user/job", "memory.max", "max\n", "memory.current", "1000\n");
    assert_available(6000 << 10);
    put_group("sys/fs/cgroup/user", "memory.max", "5000000\n", "memory.current", "1000000\n"); /* the one above */
    assert_available(4000000);
    put("sys/fs/cgroup/user/memory.stat", "anon 5\ninactive_file 300000\n"); /* files in the cache make room */
    assert_available(4300000);
    put_group("sys/fs/cgroup/user/job", "memory.max", "3000000\n", "memory.current", "1000000\n");
    assert_available(2000000);
    /* a container sees its own as the root */
    put_group("sys/fs/cgroup", "memory.max", "1500000\n", "memory.current", "1000000\n");
    assert_available(500000);
    put_group("sys/fs/cgroup", "memory.max", "1500000\n", "memory.current", "1600000\n");
    assert_available(0);
    put("proc/self/cgroup", "0::/\n");
    assert_available(0);
    remove_tree();
}
END_TEST

START_TEST(test_control_groups_v1)
{
    static const char *const limit = "memory.limit_in_bytes", *const used = "memory.usage_in_bytes";
    put("proc/meminfo", "MemAvailable:  6000 kB\n");
    put("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/docker/0123\n1:name=systemd:/a\n0::/\n");
    put_group("sys/fs/cgroup/memory/a", limit, "1\n", used, "1\n"); /* not ours */
    put_group("sys/fs/cgroup/memory", limit, "9223372036854771712\n", used, "5000000\n");
    assert_available(6000 << 10);
    put_group("sys/fs/cgroup/memory", limit, "4000000\n", used, "1000000\n");
    assert_available(3000000);
    put_group("sys/fs/cgroup/memory/docker/0123", limit, "2000000\n", used, "1500000\n");
    put("sys/fs/cgroup/memory/docker/0123/memory.stat", "inactive_file 1\ntotal_inactive_file 100000\n");
    assert_available(600000);
    remove_tree();
}
END_TEST

/* `ulimit -v` and `-d`: what is left of them, and a run that needs more says so at once. */
START_TEST(test_limits_of_the_shell)
{
    static const struct { int resource; const char *used; } all[] = { { RLIMIT_AS, "VmSize:" }, { RLIMIT_DATA, "VmData:" } };
    const size_t room = 900 << 20; /* above what is in use, which under a sanitizer is a great deal */
    size_t bytes, before = cpu_device.memory();
    FILE *file = fopen("/proc/self/status", "r");
    char text[8192] = "";
    if (!file) /* not Linux: there is no telling what is in use */
        return;
    bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    ck_assert(bytes > 0 && strstr(text, all[_i].used));
    long long used = atoll(strstr(text, all[_i].used) + 7) * 1024;
    setrlimit(all[_i].resource, &(struct rlimit){ (rlim_t)used + room, RLIM_INFINITY });
    size_t after = cpu_device.memory();
    ck_assert_msg(after <= room && after > room / 2 && after <= before, "%zu bytes", after);
    memory_require((double)after / 2, &cpu_device);
    pid_t child = fork(); /* not a test of its exit status: a failed assertion has the same */
    if (child == 0) {
        ck_assert(freopen("/dev/null", "w", stderr) != NULL);
        memory_require(2.0 * (double)room, &cpu_device);
        _exit(0);
    }
    int status;
    ck_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == EXIT_FAILED);
}
END_TEST

Suite *memory_suite(void)
{
    Suite *suite = suite_create("memory");
    TCase *guards = tcase_create("guards"), *limits = tcase_create("limits");
    tcase_add_loop_test(guards, test_starts_as_nan, 0, SIZES);
    tcase_add_loop_test(guards, test_writes_inside_are_fine, 0, SIZES);
    tcase_add_loop_test(guards, test_writes_outside_show, 0, SIZES);
    tcase_add_loop_test(guards, test_poison_again, 0, SIZES);
    tcase_add_loop_test(guards, test_guard_pages, 0, SIZES);
    suite_add_tcase(suite, guards);
    tcase_add_loop_exit_test(limits, test_too_much_memory_ends_with_status_1, EXIT_FAILED, 0, 2);
    suite_add_tcase(suite, limits);
    tcase_add_loop_test(limits, test_limits_of_the_shell, 0, 2);
    TCase *groups = tcase_create("groups");
    tcase_add_checked_fixture(groups, folder_setup, folder_teardown);
    tcase_add_test(groups, test_control_groups_v2);
    tcase_add_test(groups, test_control_groups_v1);
    suite_add_tcase(suite, groups);
    return suite;
}
