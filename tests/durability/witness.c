/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes down, in order and with the time, what a process does to the database files below a folder:
 * every write, truncation, removal and sync. From the protocol `disk.py` makes what a disk holds after
 * a power cut at any moment. Loaded by LD_PRELOAD; WITNESS_DIR is the folder, WITNESS_LOG the
 * protocol, which is appended to, WITNESS_SYNC_US how long a sync takes.
 *
 * A call and its record happen under one lock, so the order in the protocol is that of the file. Syncs
 * are not passed on: each takes as long as it is told to, its record comes at the end, before the
 * process is told, and says how many records there were at its beginning: these are safe.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { NAME = 1, WRITE = 2, TRUNCATE = 3, SYNC = 4, REMOVE = 5 };

struct record {
  uint64_t ns;
  uint32_t kind;
  uint32_t file;
  uint64_t offset;
  uint64_t length;
};

#define FILES 64
#define FDS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *names[FILES];
static uint32_t known;
static uint64_t records;
static long sync_us;
static uint32_t of_fd[FDS]; /* number of the file + 1; 0: not one of ours */
static int out = -1;

static int (*real_open)(const char *, int, ...);
static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static int (*real_ftruncate)(int, off64_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_unlink)(const char *);

__attribute__((constructor)) static void begin(void) {
  real_open = dlsym(RTLD_NEXT, "open64");
  real_openat = dlsym(RTLD_NEXT, "openat64");
  real_close = dlsym(RTLD_NEXT, "close");
  real_write = dlsym(RTLD_NEXT, "write");
  real_writev = dlsym(RTLD_NEXT, "writev");
  real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
  real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
  real_fsync = dlsym(RTLD_NEXT, "fsync");
  real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
  real_unlink = dlsym(RTLD_NEXT, "unlink");
  const char *us = getenv("WITNESS_SYNC_US");
  sync_us = us != NULL ? strtol(us, NULL, 10) : 0;
  const char *path = getenv("WITNESS_LOG");
  if (path != NULL) {
    out = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }
}

static void put(enum kind kind, uint32_t file, uint64_t offset, const void *data, size_t size,
                uint64_t length) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct record record = {(uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, kind, file,
                          offset, length};
  struct iovec parts[2] = {{&record, sizeof record}, {(void *)data, size}};
  /* A protocol with a hole would prove anything. */
  if (real_writev(out, parts, 2) != (ssize_t)(sizeof record + size)) {
    abort();
  }
  records++;
}

static int is_ours(const char *path) {
  const char *folder = getenv("WITNESS_DIR");
  if (out < 0 || folder == NULL || strncmp(path, folder, strlen(folder)) != 0) {
    return 0;
  }
  size_t length = strlen(path);
  const char *const endings[] = {".db", ".db-wal", ".db-journal"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    size_t more = strlen(endings[i]);
    if (length > more && strcmp(path + length - more, endings[i]) == 0) {
      return 1;
    }
  }
  return 0;
}

/* The file's number; with the lock. */
static uint32_t number(const char *path) {
  for (uint32_t i = 0; i < known; i++) {
    if (strcmp(names[i], path) == 0) {
      return i;
    }
  }
  if (known == FILES || (names[known] = strdup(path)) == NULL) {
    abort();
  }
  put(NAME, known, 0, path, strlen(path), strlen(path));
  return known++;
}

static int opened(int fd, const char *path, int flags) {
  int kept = errno;
  if (fd >= 0 && is_ours(path)) {
    if (fd >= FDS) {
      abort();
    }
    pthread_mutex_lock(&lock);
    of_fd[fd] = number(path) + 1;
    if (flags & O_TRUNC) {
      put(TRUNCATE, of_fd[fd] - 1, 0, NULL, 0, 0);
    }
    pthread_mutex_unlock(&lock);
  }
  errno = kept;
  return fd;
}

static int mode_of(int flags, va_list list) {
  return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(list, int) : 0;
}

int open64(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = mode_of(flags, list);
  va_end(list);
  return opened(real_open(path, flags, mode), path, flags);
}

int open(const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = mode_of(flags, list);
  va_end(list);
  return opened(real_open(path, flags, mode), path, flags);
}

int openat64(int at, const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = mode_of(flags, list);
  va_end(list);
  return opened(real_openat(at, path, flags, mode), path, flags);
}

int openat(int at, const char *path, int flags, ...) {
  va_list list;
  va_start(list, flags);
  int mode = mode_of(flags, list);
  va_end(list);
  return opened(real_openat(at, path, flags, mode), path, flags);
}

static uint32_t ours(int fd) { return fd >= 0 && fd < FDS ? of_fd[fd] : 0; }

int close(int fd) {
  if (ours(fd)) {
    of_fd[fd] = 0;
  }
  return real_close(fd);
}

/* What a write did to a file of ours; with the lock. */
static ssize_t wrote(uint32_t file, off64_t offset, const void *data, ssize_t size) {
  int kept = errno;
  if (size > 0) {
    put(WRITE, file - 1, (uint64_t)offset, data, (size_t)size, (uint64_t)size);
  }
  errno = kept;
  return size;
}

ssize_t write(int fd, const void *data, size_t size) {
  uint32_t file = ours(fd);
  if (!file) {
    return real_write(fd, data, size);
  }
  pthread_mutex_lock(&lock);
  off64_t offset = lseek64(fd, 0, SEEK_CUR);
  ssize_t done = wrote(file, offset, data, real_write(fd, data, size));
  pthread_mutex_unlock(&lock);
  return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
  if (ours(fd)) {
    abort(); /* SQLite does not, and a hole would prove anything */
  }
  return real_writev(fd, parts, count);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
  uint32_t file = ours(fd);
  if (!file) {
    return real_pwrite(fd, data, size, offset);
  }
  pthread_mutex_lock(&lock);
  ssize_t done = wrote(file, offset, data, real_pwrite(fd, data, size, offset));
  pthread_mutex_unlock(&lock);
  return done;
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
  return pwrite64(fd, data, size, offset);
}

int ftruncate64(int fd, off64_t length) {
  uint32_t file = ours(fd);
  if (!file) {
    return real_ftruncate(fd, length);
  }
  pthread_mutex_lock(&lock);
  int done = real_ftruncate(fd, length);
  int kept = errno;
  if (done == 0) {
    put(TRUNCATE, file - 1, 0, NULL, 0, (uint64_t)length);
  }
  pthread_mutex_unlock(&lock);
  errno = kept;
  return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int synced(int fd, int (*real)(int)) {
  uint32_t file = ours(fd);
  if (!file) {
    return real(fd);
  }
  pthread_mutex_lock(&lock);
  uint64_t safe = records;
  pthread_mutex_unlock(&lock);
  const struct timespec delay = {sync_us / 1000000, sync_us % 1000000 * 1000};
  nanosleep(&delay, NULL);
  pthread_mutex_lock(&lock);
  put(SYNC, file - 1, safe, NULL, 0, 0);
  pthread_mutex_unlock(&lock);
  return 0;
}

int fsync(int fd) { return synced(fd, real_fsync); }

int fdatasync(int fd) { return synced(fd, real_fdatasync); }

int unlink(const char *path) {
  if (!is_ours(path)) {
    return real_unlink(path);
  }
  pthread_mutex_lock(&lock);
  int done = real_unlink(path);
  int kept = errno;
  if (done == 0) {
    put(REMOVE, number(path), 0, NULL, 0, 0);
  }
  pthread_mutex_unlock(&lock);
  errno = kept;
  return done;
}
