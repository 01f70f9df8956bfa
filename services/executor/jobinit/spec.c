/* The launch spec: bounds and sense are checked here, once, and nowhere else. */
#include "stages.h"

#include <sys/mman.h>
#include <sys/stat.h>

struct cursor {
    const unsigned char *at;
    size_t left;
};

static char *outputs[SPEC_MAX_OUTPUTS + 1];
static char *pointers[SPEC_MAX_STRINGS + 2]; /* argv, NULL, environment, NULL */

static const void *take(struct cursor *cursor, size_t size)
{
    if (cursor->left < size)
        return NULL;
    const void *at = cursor->at;
    cursor->at += size;
    cursor->left -= size;
    return at;
}

static uint32_t number32(const void *at)
{
    uint32_t value;
    __builtin_memcpy(&value, at, sizeof value);
    return value;
}

static const char *take_text(struct cursor *cursor)
{
    const void *length = take(cursor, sizeof(uint32_t));
    if (length == NULL)
        return NULL;
    size_t n = number32(length);
    const char *text = take(cursor, n + 1);
    if (text == NULL || text[n] != 0)
        return NULL;
    for (size_t i = 0; i < n; i++)
        if (text[i] == 0)
            return NULL;
    return text;
}

static int take_texts(struct cursor *cursor, char **to, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const char *text = take_text(cursor);
        if (text == NULL)
            return 0;
        __builtin_memcpy(&to[i], &text, sizeof text); /* execve wants char *; nothing here writes through it */
    }
    to[count] = NULL;
    return 1;
}

int safe_path(const char *path)
{
    if (text_length(path) >= 4096)
        return 0;
    for (;;) {
        size_t n = 0;
        while (path[n] != '/' && path[n] != 0)
            n++;
        if (n == 0 || (n == 1 && path[0] == '.') || (n == 2 && path[0] == '.' && path[1] == '.'))
            return 0;
        if (path[n] == 0)
            return 1;
        path += n + 1;
    }
}

static int holds_nothing(uint32_t kind)
{
    return kind == UPLOAD_DIRECTORY || kind == UPLOAD_LEAVE;
}

static int is_dot(const char *path)
{
    return path[0] == '.' && path[1] == 0;
}

const unsigned char *spec_upload(const unsigned char *at, struct upload *upload)
{
    upload->mode = number32(at);
    upload->kind = number32(at + 4);
    __builtin_memcpy(&upload->size, at + 8, sizeof upload->size);
    upload->path = (const char *)at + 20;
    return at + 20 + number32(at + 16) + 1;
}

static const char *check_uploads(struct cursor *cursor, const struct spec_header *header)
{
    uint64_t total = 0;
    uint32_t contents = 0;
    for (uint32_t i = 0; i < header->uploads; i++) {
        struct upload upload;
        const unsigned char *at = take(cursor, 16);
        if (at == NULL || take_text(cursor) == NULL)
            return "spec: upload table is cut short";
        spec_upload(at, &upload);
        if (upload.kind > UPLOAD_TREE || upload.mode > 0777 || (holds_nothing(upload.kind) && upload.size != 0))
            return "spec: upload has a bad kind, mode or size";
        contents += upload.kind >= UPLOAD_CONTENT;
        if (!safe_path(upload.path) && !(upload.kind == UPLOAD_TREE && is_dot(upload.path)))
            return "spec: upload path leaves the working directory";
        if (upload.size > INT64_MAX || (total += upload.size) > INT64_MAX)
            return "spec: uploads are too large";
    }
    return contents == header->contents ? NULL : "spec: wrong number of upload contents";
}

static const char *check_numbers(const struct spec_header *h)
{
    const uint64_t most = UINT64_C(1) << 50;
    if (h->uid == UINT32_MAX || h->gid == UINT32_MAX || h->host_uid == UINT32_MAX || h->host_gid == UINT32_MAX)
        return "spec: bad user or group";
    if (h->host_uid == 0 || h->host_gid == 0 || h->host_uid < h->uid || h->host_gid < h->gid)
        return "spec: user or group is not in a range of its own";
    if (h->timeout_ms > UINT64_C(1) << 40 || h->grace_ms > UINT64_C(1) << 40)
        return "spec: time is out of range";
    if (h->tmp_bytes - 1 >= most || h->work_bytes - 1 >= most || h->shm_bytes - 1 >= most || h->tmpfs_inodes - 1 >= most)
        return "spec: file system size is out of range";
    if (h->nofile < 3 || h->nofile > UINT64_C(1) << 30)
        return "spec: number of open files is out of range";
    if (h->argc == 0 || h->argc > SPEC_MAX_STRINGS || h->envc > SPEC_MAX_STRINGS - h->argc)
        return "spec: no command, or too many arguments";
    if (h->outputs > SPEC_MAX_OUTPUTS || h->output_bytes > most || h->output_ms > UINT64_C(1) << 40)
        return "spec: too many outputs";
    return NULL;
}

static const char *check_header(const struct spec_header *h, size_t size)
{
    if (h->magic != SPEC_MAGIC)
        return "spec: bad magic";
    if (h->version != SPEC_VERSION)
        return "spec: unknown version";
    if (h->size != size)
        return "spec: size differs from the file's";
    if ((h->flags & ~(uint32_t)LAUNCH_ALL) != 0 || h->reserved != 0)
        return "spec: unknown flags";
    if (h->profile != PROFILE_DEFAULT && h->profile != PROFILE_BUILD)
        return "spec: unknown profile";
    if (h->cgroup_version != 1 && h->cgroup_version != 2)
        return "spec: unknown cgroup version";
    if (h->init_fds > FD_CGROUP_MAX || h->payload_fds > FD_CGROUP_MAX - h->init_fds ||
        h->contents > FD_CGROUP_MAX - h->init_fds - h->payload_fds)
        return "spec: too many descriptors";
    /* On v1 init may stay where the executor is; on v2 there is one directory for each. */
    if (h->flags & LAUNCH_PREPARED)
        return h->cgroup_version == 1 && h->init_fds == 0 && h->payload_fds == 0 ? check_numbers(h)
                                                                                 : "spec: cannot be prepared ahead";
    if (h->payload_fds == 0 || (h->cgroup_version == 2 && (h->init_fds != 1 || h->payload_fds != 1)))
        return "spec: wrong number of cgroup descriptors";
    return check_numbers(h);
}

const char *spec_parse(const void *data, size_t size, struct spec *spec)
{
    struct cursor cursor = {data, size};
    const void *header = take(&cursor, sizeof spec->header);
    if (header == NULL)
        return "spec: shorter than its header";
    __builtin_memcpy(&spec->header, header, sizeof spec->header);
    const char *problem = check_header(&spec->header, size);
    if (problem != NULL)
        return problem;
    spec->hostname = take_text(&cursor);
    spec->workdir = spec->hostname != NULL ? take_text(&cursor) : NULL;
    spec->argv = pointers;
    spec->envp = pointers + spec->header.argc + 1;
    if (spec->workdir == NULL || !take_texts(&cursor, spec->argv, spec->header.argc) ||
        !take_texts(&cursor, spec->envp, spec->header.envc))
        return "spec: a string is cut short or contains NUL";
    if (spec->hostname[0] == 0 || text_length(spec->hostname) > 64)
        return "spec: host name is empty or too long";
    if (spec->workdir[0] != '/')
        return "spec: working directory is not absolute";
    if (spec->argv[0][0] == 0)
        return "spec: command is empty";
    spec->uploads = cursor.at;
    problem = check_uploads(&cursor, &spec->header);
    spec->outputs = outputs;
    if (problem == NULL && !take_texts(&cursor, outputs, spec->header.outputs))
        problem = "spec: an output is cut short or contains NUL";
    if (problem == NULL && cursor.left != 0)
        problem = "spec: bytes after the end";
    return problem;
}

void spec_load(struct spec *spec)
{
    struct stat status;
    need(STAGE_SPEC, sys(SYS_fstat, FD_SPEC, &status), "spec: fstat");
    if (status.st_size <= 0 || status.st_size > SPEC_MAX_BYTES)
        fail(STAGE_SPEC, 0, "spec: empty or too large");
    long at = need(STAGE_SPEC, sys(SYS_mmap, 0, status.st_size, PROT_READ, MAP_PRIVATE, FD_SPEC, 0), "spec: mmap");
    const char *problem = spec_parse((const void *)at, (size_t)status.st_size, spec);
    if (problem != NULL)
        fail(STAGE_SPEC, 0, problem);
}
