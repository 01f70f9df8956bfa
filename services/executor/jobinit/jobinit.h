/* What jobinit and the executor agree on, and what jobinit's stages offer each other.
 *
 * The numbers in the first half are protocol: joblet/executor/jobspec.py and exitrecord.py hold the same ones, and
 * jobspec_test.py compares the two by reading this file. Everything on the wire and on disk is little endian. */
#ifndef JOBINIT_H
#define JOBINIT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* ---- File descriptors at the start. 0, 1, 2 are /dev/null; what a job does not need is /dev/null too. ---- */
enum {
    FD_SPEC = 3,         /* memfd with the spec */
    FD_CONTROL = 4,      /* SOCK_SEQPACKET to the executor */
    FD_TEMPLATE = 5,     /* mount namespace to copy */
    FD_USERNS = 6,       /* user namespace of the job */
    FD_STATE = 7,        /* the job's state directory; the exit record goes there */
    FD_DATA = 8,         /* log, O_WRONLY without O_APPEND (splice(2) refuses O_APPEND) */
    FD_INDEX = 9,        /* log index, O_APPEND */
    FD_UPLOADS = 10,     /* contents of the uploads, one after the other */
    FD_OOM_EVENT = 11,   /* eventfd of memory.oom_control (cgroup v1), looked at when LAUNCH_OOM_EVENT is set */
    FD_OOM_COUNTER = 12, /* memory.oom_control (v1) or memory.events (v2) of the payload */
    FD_NETNS = 13,       /* reserved */
    FD_CGROUP = 14,      /* v1: `tasks` files of the init leaf, then of the payload leaf; v2: their directories; then
                          * a file for each upload of kind CONTENT or TREE, in the order of the table */
    FD_CGROUP_MAX = 32,  /* at most so many of them all */
    /* Places of jobinit's own, below 64 so that the kernel's small descriptor table suffices. */
    FD_PIPE_READ = 48,
    FD_PIPE_WRITE = 49,
    FD_LAUNCH_READ = 50,
    FD_LAUNCH_WRITE = 51,
    FD_SIGNALS = 52,
    FD_RECORD = 53,
    FD_PROC_SYS = 54,
    FD_OWN_END = 55,
};

/* ---- Messages on FD_CONTROL ---- */
enum { MSG_INIT = 1, MSG_PARKED = 2, MSG_ERROR = 3, MSG_GO = 4, MSG_ORDER = 5 };

/* What comes with MSG_ORDER, in this order: descriptors for the places FD_SPEC, FD_STATE, FD_DATA, FD_INDEX, FD_UPLOADS,
 * FD_OOM_EVENT, FD_OOM_COUNTER, then those for FD_CGROUP and up. */
enum { ORDER_FIXED_FDS = 7 };

struct msg {
    uint32_t type;
    uint32_t stage; /* ERROR: where. PARKED: STAGE_LANDLOCK when optional scoping is not available, else 0 */
    int32_t error;  /* errno; 0 when the kernel had no say (a spec that makes no sense) */
    uint32_t reserved;
    char detail[256]; /* text, NUL terminated */
};
_Static_assert(sizeof(struct msg) == 272, "protocol");

/* ---- Stages, in the order they happen ---- */
enum {
    STAGE_SPEC = 1,          /* read and check the spec */
    STAGE_CGROUP_INIT = 2,   /* outer: join the init leaf */
    STAGE_TEMPLATE = 3,      /* outer: enter the template mount namespace */
    STAGE_CLONE = 4,         /* outer: create init in new namespaces */
    STAGE_CONTROL = 5,       /* init: hand over the pidfd */
    STAGE_RECORD = 6,        /* init: preallocate the exit record */
    STAGE_PROC = 7,          /* init: mount and mask /proc */
    STAGE_MOUNT = 8,         /* init: /dev/pts, /dev/shm, /tmp, /work */
    STAGE_LOOPBACK = 9,      /* init: lo up in a new network namespace */
    STAGE_HOSTNAME = 10,     /* init */
    STAGE_RLIMIT = 11,       /* init: resource limits, for the command to inherit */
    STAGE_PIPE = 12,         /* init: output pipe, signalfd */
    STAGE_FORK = 13,         /* init: create the command */
    STAGE_CGROUP = 14,       /* command: join the payload leaf, own cgroup namespace */
    STAGE_SESSION = 15,      /* command: session, oom score, descriptors, signals */
    STAGE_USERNS = 16,       /* command: enter the user namespace, forbid nested ones */
    STAGE_CREDENTIALS = 17,  /* command: groups, ids, capabilities, no_new_privs, keyring */
    STAGE_UPLOAD = 18,       /* command: write the uploads */
    STAGE_WORKDIR = 19,      /* command: chdir */
    STAGE_RESOLVE = 20,      /* command: find the executable */
    STAGE_LANDLOCK = 21,     /* command: scoping */
    STAGE_SECCOMP = 22,      /* command */
    STAGE_PARK = 23,         /* command: the executor went away or said something else than GO */
    STAGE_EXEC = 24,         /* command: execve */
    STAGE_PRIVILEGES = 25,   /* init: give up what it no longer needs */
    STAGE_SUPERVISE = 26,    /* init: poll, wait, splice */
};

/* Exit statuses of outer and of the command when a launch fails (those of a shell, and of docker for 125). */
enum { EXIT_LAUNCH = 125, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127 };

/* ---- The spec: this header, then strings (u32 length, bytes, NUL): hostname, workdir, argv..., env..., then uploads
 * (u32 mode, u32 kind, u64 size, string path), then outputs. No padding anywhere after the header. ---- */
enum { SPEC_MAGIC = 0x5053424a /* "JBSP" */, SPEC_VERSION = 2, SPEC_MAX_BYTES = 8 << 20, SPEC_MAX_STRINGS = 65536, SPEC_MAX_OUTPUTS = 64 };
enum {
    LAUNCH_NEW_NETWORK = 1,        /* own network namespace with lo up */
    LAUNCH_LANDLOCK = 2,           /* scope abstract sockets and signals; fail when the kernel cannot */
    LAUNCH_LANDLOCK_OPTIONAL = 4,  /* ... but only report it */
    LAUNCH_OOM_EVENT = 8,          /* FD_OOM_EVENT is an eventfd: kill the whole job when it fires */
    LAUNCH_PREPARED = 16,          /* no job yet: init mounts and waits for MSG_ORDER; cgroup v1 only, no cgroup fds */
    LAUNCH_ALL = 31,
};
enum { PROFILE_DEFAULT = 1, PROFILE_BUILD = 2 };
/* Where an upload's bytes are: FILE and LINK (its target): in FD_UPLOADS, one after the other; CONTENT (a file) and TREE
 * (a directory with what is in it; its path may be "."): in descriptors of their own. LEAVE comes when nothing more goes
 * into a directory: it gets its mode, which may forbid that. */
enum { UPLOAD_FILE = 0, UPLOAD_DIRECTORY = 1, UPLOAD_LINK = 2, UPLOAD_LEAVE = 3, UPLOAD_CONTENT = 4, UPLOAD_TREE = 5 };

struct spec_header {
    uint32_t magic, version, size, flags;
    uint32_t cgroup_version, init_fds, payload_fds, profile;
    uint32_t uid, gid;           /* inside the user namespace */
    uint32_t host_uid, host_gid; /* the same user, seen from outside: owner of /work */
    uint64_t timeout_ms;         /* 0: none */
    uint64_t grace_ms;           /* between TERM and KILL */
    uint64_t tmp_bytes, work_bytes, shm_bytes, tmpfs_inodes;
    uint64_t nofile;
    uint32_t argc, envc, uploads;
    uint32_t log_rate;           /* output in bytes per second; 0: no limit */
    uint32_t contents;           /* uploads with a descriptor of their own */
    uint32_t outputs;            /* patterns of what is kept of /work */
    uint64_t output_bytes, output_ms; /* at most that much of it, and for that long */
    uint32_t output_files;
    uint32_t reserved;
};
_Static_assert(sizeof(struct spec_header) == 152, "protocol");

/* ---- A tree: TREE_MAGIC, then entries: this header, path, NUL, `size` bytes of content. The kinds up to LEAVE are
 * those of uploads. joblet/common/tree.py says more. ---- */
#define TREE_MAGIC "JBTREE1\n"

enum { TREE_END = 9 };

struct __attribute__((packed)) tree_entry {
    uint32_t mode, kind;
    uint64_t size;
    int64_t mtime_ns;
    uint32_t path_length;
};
_Static_assert(sizeof(struct tree_entry) == 28, "disk format");

/* ---- The exit record: file `exit` in the state directory ---- */
enum { RECORD_MAGIC = 0x5845424a /* "JBEX" */, RECORD_VERSION = 1 };
enum {
    REASON_EXIT = 1, REASON_SIGNAL = 2, REASON_OOM = 3, REASON_TIMEOUT = 4, REASON_STOPPED = 5, REASON_LAUNCH_FAILED = 6,
    REASON_OOM_CHILD = 7,
};
enum {
    RECORD_STARTED = 1,    /* the command got its GO and was about to execve */
    RECORD_OOM_EVENT = 2,  /* the kernel announced an OOM to init */
    RECORD_FORCED = 4,     /* the grace period ran out */
};

struct record {
    uint32_t magic, version;
    int32_t exit_code; /* 0..255; 128+n for a signal; -1 stopped or timed out */
    int32_t signal;    /* that ended the main process, else 0 */
    uint32_t reason;
    uint32_t stage; /* launch failed: STAGE_* and errno */
    int32_t error;
    uint32_t flags;
    int64_t start_ns, end_ns; /* CLOCK_REALTIME; start is the GO, or the fork when there was none */
    uint64_t user_us, system_us, maxrss_bytes;
    uint64_t oom_kills, voluntary_switches, involuntary_switches;
    char detail[60]; /* launch failed: beginning of the message's detail, NUL terminated */
    uint32_t crc;    /* CRC-32 (IEEE) of everything before */
};
_Static_assert(sizeof(struct record) == 160, "disk format");

/* ---- Entries of the log index ---- */
enum { INDEX_DATA = 1, INDEX_END = 2 };

struct index_entry {
    uint64_t bytes, realtime_ns;
    uint32_t kind, crc; /* CRC-32 (IEEE) of the 20 bytes before */
};
_Static_assert(sizeof(struct index_entry) == 24, "disk format");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are written as they lie in memory");

#endif
