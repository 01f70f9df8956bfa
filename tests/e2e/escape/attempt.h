/* What the programs of the corpus say: one line, "reached HOW" or "stopped BY AT", and exit status 0 or 1. */
#ifndef ATTEMPT_H
#define ATTEMPT_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline _Noreturn void reached(const char *how)
{
    printf("reached %s\n", how);
    exit(0);
}

static inline _Noreturn void stopped(const char *by, const char *at)
{
    printf("stopped %s %s\n", by, at);
    exit(1);
}

/* A result that is negative with errno set ends the program. */
static inline long attempt(const char *at, long result)
{
    if (result < 0)
        stopped(strerrorname_np(errno), at);
    return result;
}

/* The call is past the permission check when it fails for this reason, as it does with these arguments. */
static inline _Noreturn void past_permission(const char *at, long result, int expected)
{
    if (result < 0 && errno != expected)
        stopped(strerrorname_np(errno), at);
    reached(at);
}

#endif
