/* A disk that fails on command: preloaded into a process (LD_PRELOAD), it counts the calls that change what lies below
 * one folder, and at call number N kills the process or refuses. Nothing happens before faults_arm.
 *
 * Counted: write, pwrite, writev, ftruncate, fsync, fdatasync, rename, link, symlink, unlink, mkdir, rmdir, sendfile,
 * copy_file_range, and opening a file that is created or truncated.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, TORN, REFUSE };                       /* what to do at call number `target` */
enum { WRITES = 1, SYNCS = 2, CREATES = 4, NAMES = 8, REMOVES = 16 }; /* which calls REFUSE refuses */

static char folder[PATH_MAX];
static size_t folder_length;
static int mode = COUNT, refused_errno = ENOSPC, kinds, real_sync;
static long target = -1, until = -1, calls;
static FILE *log_file;

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

long faults_calls(void) { return calls; }
void faults_disarm(void) { folder_length = 0; }

/* REFUSE: the calls of these kinds fail with `number` from call `at` on, up to but without call `end` (-1: for ever).
 * sync: whether fsync and fdatasync are really done (they cost time, and a killed process loses nothing without). */
void faults_arm(const char *path, int what, long at, long end, int number, int which, int sync, const char *log)
{
    folder_length = 0;
    if (!realpath(path, folder)) abort();
    mode = what; target = at; until = end; refused_errno = number; kinds = which; real_sync = sync; calls = 0;
    log_file = log ? fopen(log, "w") : NULL;
    folder_length = strlen(folder);
}

static int below(const char *path)
{
    return folder_length && !strncmp(path, folder, folder_length) && (path[folder_length] == '/' || !path[folder_length]);
}

static int fd_path(int fd, char *path)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int fd_below(int fd, char *path) { return folder_length && fd_path(fd, path) && below(path); }

static int at_below(int fd, const char *name, char *path)
{
    if (!folder_length) return 0;
    if (name[0] == '/') snprintf(path, PATH_MAX, "%s", name);
    else {
        char base[PATH_MAX];
        if (fd == AT_FDCWD) { if (!getcwd(base, sizeof base)) return 0; }
        else if (!fd_path(fd, base)) return 0;
        if (snprintf(path, PATH_MAX, "%s/%s", base, name) >= PATH_MAX) return 0;
    }
    return below(path);
}

/* 0: do the call; 1: do half of it (or all of it), then die; 2: refuse; 3: the disk takes half and then is full */
static int fate(int kind, const char *name, const char *path)
{
    calls++;
    if (log_file) { fprintf(log_file, "%ld %s %s\n", calls, name, path); fflush(log_file); }
    if (mode == KILL && calls == target) die();
    if (mode == TORN && calls == target) return 1;
    if (mode == REFUSE && calls >= target && (until < 0 || calls < until) && (kinds & kind))
        return kind == WRITES && calls == target && refused_errno == ENOSPC ? 3 : 2;
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define DECIDE(kind, name, call) \
    switch (fate(kind, name, path)) { \
    case 1: call; die(); break; \
    case 2: case 3: errno = refused_errno; return -1; }

static ssize_t half_write(int what, ssize_t (*real)(int, const void *, size_t), int fd, const void *data, size_t size)
{
    if (what == 2) { errno = refused_errno; return -1; }
    ssize_t done = size / 2 ? real(fd, data, size / 2) : 0;
    if (what == 1) die();
    if (done == 0) { errno = refused_errno; return -1; }
    return done;
}

ssize_t write(int fd, const void *data, size_t size)
{
    char path[PATH_MAX];
    int what = fd_below(fd, path) ? fate(WRITES, "write", path) : 0;
    return what ? half_write(what, REAL(write), fd, data, size) : REAL(write)(fd, data, size);
}

static ssize_t positioned(int fd, const void *data, size_t size, off_t offset)
{
    char path[PATH_MAX];
    int what = fd_below(fd, path) ? fate(WRITES, "pwrite", path) : 0;
    if (what == 2) { errno = refused_errno; return -1; }
    if (what) {
        ssize_t done = size / 2 ? syscall(SYS_pwrite64, fd, data, size / 2, offset) : 0;
        if (what == 1) die();
        if (done == 0) { errno = refused_errno; return -1; }
        return done;
    }
    return syscall(SYS_pwrite64, fd, data, size, offset);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return positioned(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return positioned(fd, data, size, offset); }

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    char path[PATH_MAX];
    if (fd_below(fd, path)) DECIDE(WRITES, "writev", REAL(writev)(fd, parts, count / 2));
    return REAL(writev)(fd, parts, count);
}

ssize_t sendfile64(int out, int in, off64_t *offset, size_t size)
{
    char path[PATH_MAX];
    if (fd_below(out, path)) DECIDE(WRITES, "sendfile", REAL(sendfile64)(out, in, offset, size / 2));
    return REAL(sendfile64)(out, in, offset, size);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t size) { return sendfile64(out, in, (off64_t *)offset, size); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t size, unsigned flags)
{
    char path[PATH_MAX];
    if (fd_below(out, path)) DECIDE(WRITES, "copy_file_range", REAL(copy_file_range)(in, from, out, to, size / 2, flags));
    return REAL(copy_file_range)(in, from, out, to, size, flags);
}

static int truncated(int fd, off_t size)
{
    char path[PATH_MAX];
    if (fd_below(fd, path)) DECIDE(WRITES, "ftruncate", syscall(SYS_ftruncate, fd, size));
    return syscall(SYS_ftruncate, fd, size);
}
int ftruncate(int fd, off_t size) { return truncated(fd, size); }
int ftruncate64(int fd, off64_t size) { return truncated(fd, size); }

static int synced(int fd, const char *name)
{
    char path[PATH_MAX];
    if (fd_below(fd, path)) {
        DECIDE(SYNCS, name, (void)0);
        if (!real_sync) return 0;
    }
    return syscall(SYS_fsync, fd);
}
int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    char path[PATH_MAX];
    if (at_below(to_fd, to, path)) DECIDE(NAMES, "rename", syscall(SYS_renameat2, from_fd, from, to_fd, to, flags));
    return syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}
int renameat(int from_fd, const char *from, int to_fd, const char *to) { return renameat2(from_fd, from, to_fd, to, 0); }
int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    char path[PATH_MAX];
    if (at_below(to_fd, to, path)) DECIDE(NAMES, "link", syscall(SYS_linkat, from_fd, from, to_fd, to, flags));
    return syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int symlinkat(const char *from, int fd, const char *to)
{
    char path[PATH_MAX];
    if (at_below(fd, to, path)) DECIDE(NAMES, "symlink", syscall(SYS_symlinkat, from, fd, to));
    return syscall(SYS_symlinkat, from, fd, to);
}
int symlink(const char *from, const char *to) { return symlinkat(from, AT_FDCWD, to); }

int unlinkat(int fd, const char *name, int flags)
{
    char path[PATH_MAX];
    if (at_below(fd, name, path))
        DECIDE(REMOVES, flags & AT_REMOVEDIR ? "rmdir" : "unlink", syscall(SYS_unlinkat, fd, name, flags));
    return syscall(SYS_unlinkat, fd, name, flags);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int fd, const char *name, mode_t permissions)
{
    char path[PATH_MAX];
    if (at_below(fd, name, path)) DECIDE(CREATES, "mkdir", syscall(SYS_mkdirat, fd, name, permissions));
    return syscall(SYS_mkdirat, fd, name, permissions);
}
int mkdir(const char *name, mode_t permissions) { return mkdirat(AT_FDCWD, name, permissions); }

static int opened(int fd, const char *name, int flags, mode_t permissions)
{
    char path[PATH_MAX];
    if ((flags & (O_CREAT | O_TRUNC)) && at_below(fd, name, path))
        DECIDE(CREATES, "create", syscall(SYS_openat, fd, name, flags, permissions));
    return syscall(SYS_openat, fd, name, flags, permissions);
}
#define PERMISSIONS \
    mode_t permissions = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { va_list list; va_start(list, flags); permissions = va_arg(list, int); va_end(list); }
int open(const char *name, int flags, ...) { PERMISSIONS return opened(AT_FDCWD, name, flags, permissions); }
int open64(const char *name, int flags, ...) { PERMISSIONS return opened(AT_FDCWD, name, flags | O_LARGEFILE, permissions); }
int openat(int fd, const char *name, int flags, ...) { PERMISSIONS return opened(fd, name, flags, permissions); }
int openat64(int fd, const char *name, int flags, ...) { PERMISSIONS return opened(fd, name, flags | O_LARGEFILE, permissions); }
int creat(const char *name, mode_t permissions) { return opened(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, permissions); }
