/* What the floor and the load generator share: clocks, sockets, and lines of text on standard input. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Every item that a benchmark publishes has this text once, and a CLOCK_MONOTONIC stamp in nanoseconds after it. */
#define MARKER "\"data\":{\"t\":"
#define MARKER_LEN (sizeof(MARKER) - 1)

static inline void die(const char *what) {
    perror(what);
    exit(2);
}

static inline int64_t clock_ns(clockid_t id) {
    struct timespec now;
    if (clock_gettime(id, &now) != 0) return 0;
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline int64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

/* CPU time of all threads of a process, in nanoseconds: what clock_getcpuclockid() gives on Linux. */
static inline int64_t cpu_ns(pid_t pid) {
    return pid > 0 ? clock_ns((clockid_t)((~(unsigned)pid << 3) | 2)) : 0;
}

static inline void raise_file_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static inline void set_option(int fd, int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof value);
}

static inline void set_nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

/* Prints one line and flushes it: the harness reads lines. */
static inline void say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

/* Reads what standard input has and calls `handle` for each whole line; ends the program at end of file. */
static inline void read_lines(void (*handle)(char *line)) {
    static char buffer[4096];
    static size_t used;
    ssize_t got = read(STDIN_FILENO, buffer + used, sizeof buffer - 1 - used);
    if (got <= 0) exit(0);
    used += (size_t)got;
    buffer[used] = 0;
    char *start = buffer, *end;
    while ((end = strchr(start, '\n')) != NULL) {
        *end = 0;
        handle(start);
        start = end + 1;
    }
    used = (size_t)(buffer + used - start);
    memmove(buffer, start, used);
}

#endif
