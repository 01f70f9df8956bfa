/* What jobinit's files offer each other, in the order of the launch. */
#ifndef STAGES_H
#define STAGES_H

#include "jobinit.h"
#include "sys.h"

struct spec {
    struct spec_header header;
    const char *hostname, *workdir;
    char **argv, **envp;
    char **outputs;
    const unsigned char *uploads; /* checked; read by spec_upload */
};

struct upload {
    uint32_t mode, kind;
    uint64_t size;
    const char *path;
};

/* spec.c: NULL, or what is wrong with the bytes. The spec points into them. */
const char *spec_parse(const void *data, size_t size, struct spec *spec);
const unsigned char *spec_upload(const unsigned char *at, struct upload *upload); /* returns the next one */
int safe_path(const char *path); /* relative, and no component is empty, "." or ".." */
void spec_load(struct spec *spec);                                                 /* from FD_SPEC, or fails */

/* msg.c: every failure of a launch goes through fail. */
enum role { ROLE_INIT, ROLE_COMMAND, ROLE_COLLECTOR };
extern enum role role;
void message_make(struct msg *message, uint32_t type, uint32_t stage, long error, const char *detail);
long message_send(const struct msg *message, int pass_fd);
_Noreturn void fail(uint32_t stage, long error, const char *detail);

/* The result of a system call, which must have succeeded. */
static inline long need(uint32_t stage, long result, const char *detail)
{
    if (result < 0)
        fail(stage, -result, detail);
    return result;
}

/* nursery.c, main.c, init.c, rootfs.c, command.c, seccomp.c */
_Noreturn void nursery(void);
_Noreturn void outer(void);
_Noreturn void init(struct spec *spec);
void rootfs_mount(const struct spec *spec);
void rootfs_resize_memory(const struct spec *spec); /* /dev/shm, mounted before the job was known */
void order_await(struct spec *spec);               /* order.c: replaces the spec and the descriptors */
_Noreturn void command(const struct spec *spec);
void uploads_write(const struct spec *spec); /* upload.c: as the job's user */
void seccomp_load(uint32_t profile);

/* supervise.c: from the fork of the command to the end of init. */
_Noreturn void supervise(const struct spec *spec, long command_pid);

/* collect.c: after the end. glob.c */
void collect_outputs(const struct spec *spec);
int glob_matches(const char *pattern, const char *path);

/* pump.c: pipe -> log file and its index. */
void pump_limit(uint32_t bytes_per_second); /* 0: none */
int64_t pump_output(int64_t now); /* not again before that time; INT64_MAX: when there is something in the pipe */
int64_t pump_index_due(void); /* CLOCK_MONOTONIC, INT64_MAX when there is nothing to say */
void pump_index(int64_t now);
void pump_finish(void);

/* record.c */
uint32_t crc32(const void *data, size_t size);
long record_prepare(void); /* 0 or -errno */
long record_write(struct record *record);

#endif
