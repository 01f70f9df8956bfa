/* Puts the uploads below /work, as the job's user, before its command runs.
 *
 * A path or link that plays tricks plays them against the job itself, and nobody else writes below /work meanwhile. All
 * the same no step follows a link or leaves /work: files are opened, and directories and links are made, below a
 * descriptor that openat2 found without following any. */
#include "stages.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>

enum { PATH_BYTES = 4096 };

/* One file, directory or link; its bytes begin at `offset` of `from`. */
struct item {
    const char *path;
    uint32_t kind, mode;
    uint64_t size;
    int from;
    int64_t offset;
};

static long open_beneath(long directory, const char *path, uint64_t flags)
{
    struct open_how how = {
        .flags = flags | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
    };
    if (flags & O_CREAT)
        how.mode = 0600;
    return sys(SYS_openat2, directory, path, &how, sizeof how);
}

/* The directory that `path` lies in, and where its last component begins. */
static long open_parent(long root, const char *path, const char **name)
{
    static char parent[PATH_BYTES];
    size_t cut = text_length(path);
    while (cut > 0 && path[cut - 1] != '/')
        cut--;
    *name = path + cut;
    __builtin_memcpy(parent, path, cut);
    parent[cut] = 0; /* with the slash at its end: a directory */
    return need(STAGE_UPLOAD, open_beneath(root, cut > 0 ? parent : ".", O_PATH | O_DIRECTORY), path);
}

static void write_file(long root, const struct item *item)
{
    int64_t offset = item->offset;
    long fd = need(STAGE_UPLOAD, open_beneath(root, item->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW), item->path);
    for (uint64_t left = item->size; left > 0;) {
        long n = need(STAGE_UPLOAD, sys(SYS_sendfile, fd, item->from, &offset, left), item->path);
        if (n == 0)
            fail(STAGE_UPLOAD, 0, "upload contents are shorter than the table says");
        left -= (uint64_t)n;
    }
    need(STAGE_UPLOAD, sys(SYS_fchmod, fd, item->mode), item->path);
    need(STAGE_UPLOAD, sys(SYS_close, fd), item->path);
}

static void make_directory(long root, const struct item *item)
{
    const char *name;
    long parent = open_parent(root, item->path, &name);
    long result = sys(SYS_mkdirat, parent, name, 0700);
    if (result != -EEXIST)
        need(STAGE_UPLOAD, result, item->path);
    need(STAGE_UPLOAD, sys(SYS_close, parent), item->path);
}

static void make_link(long root, const struct item *item)
{
    static char target[PATH_BYTES];
    const char *name;
    if (item->size >= sizeof target)
        fail(STAGE_UPLOAD, ENAMETOOLONG, item->path);
    long n = need(STAGE_UPLOAD, sys(SYS_pread64, item->from, target, item->size, item->offset), item->path);
    if ((uint64_t)n != item->size)
        fail(STAGE_UPLOAD, 0, "upload contents are shorter than the table says");
    target[n] = 0;
    long parent = open_parent(root, item->path, &name);
    need(STAGE_UPLOAD, sys(SYS_symlinkat, target, parent, name), item->path);
    need(STAGE_UPLOAD, sys(SYS_close, parent), item->path);
}

static void set_directory_mode(long root, const struct item *item)
{
    long fd = need(STAGE_UPLOAD, open_beneath(root, item->path, O_RDONLY | O_DIRECTORY), item->path);
    need(STAGE_UPLOAD, sys(SYS_fchmod, fd, item->mode), item->path);
    need(STAGE_UPLOAD, sys(SYS_close, fd), item->path);
}

static void place(long root, const struct item *item)
{
    switch (item->kind) {
    case UPLOAD_DIRECTORY:
        return make_directory(root, item);
    case UPLOAD_LEAVE:
        return set_directory_mode(root, item);
    case UPLOAD_LINK:
        return make_link(root, item);
    default:
        return write_file(root, item);
    }
}

/* The entry at `offset` of a tree; its path goes into `path`. 0 at the end. */
static int read_entry(int tree, int64_t offset, struct item *item, char *path)
{
    struct tree_entry entry;
    long n = need(STAGE_UPLOAD, sys(SYS_pread64, tree, &entry, sizeof entry, offset), "read a tree");
    if (n == 0)
        return 0;
    if (n != (long)sizeof entry || entry.path_length >= PATH_BYTES || entry.kind > UPLOAD_LEAVE || entry.mode > 0777 ||
        entry.size > INT64_MAX / 2)
        fail(STAGE_UPLOAD, 0, "tree: an entry makes no sense");
    offset += (int64_t)sizeof entry;
    n = need(STAGE_UPLOAD, sys(SYS_pread64, tree, path, entry.path_length + 1, offset), "read a tree");
    if (n != (long)entry.path_length + 1 || path[entry.path_length] != 0 || text_length(path) != entry.path_length)
        fail(STAGE_UPLOAD, 0, "tree: a path is cut short");
    if (!safe_path(path))
        fail(STAGE_UPLOAD, 0, "tree: a path leaves the tree");
    *item = (struct item){path, entry.kind, entry.mode, entry.size, tree, offset + n};
    return 1;
}

static void unpack(long work, const struct upload *upload, int tree)
{
    static char path[PATH_BYTES];
    const struct item top = {upload->path, UPLOAD_DIRECTORY, upload->mode, 0, -1, 0};
    const int in_work = upload->path[0] == '.' && upload->path[1] == 0;
    const int64_t first = sizeof TREE_MAGIC - 1;
    char magic[sizeof TREE_MAGIC];
    struct item item;
    if (sys(SYS_pread64, tree, magic, first, 0) != first || !text_begins(magic, TREE_MAGIC))
        fail(STAGE_UPLOAD, 0, "tree: it has another beginning");
    if (!in_work)
        make_directory(work, &top);
    long root = need(STAGE_UPLOAD, open_beneath(work, upload->path, O_RDONLY | O_DIRECTORY), upload->path);
    for (int64_t at = first; read_entry(tree, at, &item, path); at = item.offset + (int64_t)item.size)
        place(root, &item);
    if (!in_work)
        need(STAGE_UPLOAD, sys(SYS_fchmod, root, upload->mode), upload->path);
    need(STAGE_UPLOAD, sys(SYS_close, root), upload->path);
}

void uploads_write(const struct spec *spec)
{
    const struct spec_header *header = &spec->header;
    int content = FD_CGROUP + (int)(header->init_fds + header->payload_fds);
    int64_t offset = 0;
    struct upload upload;
    const unsigned char *at = spec->uploads;
    if (header->uploads == 0)
        return;
    long work = need(STAGE_UPLOAD, sys(SYS_openat, AT_FDCWD, "/work", O_PATH | O_DIRECTORY | O_CLOEXEC), "/work");
    for (uint32_t i = 0; i < header->uploads; i++) {
        at = spec_upload(at, &upload);
        if (upload.kind == UPLOAD_TREE) {
            unpack(work, &upload, content++);
        } else if (upload.kind == UPLOAD_CONTENT) {
            write_file(work, &(struct item){upload.path, UPLOAD_FILE, upload.mode, upload.size, content++, 0});
        } else {
            place(work, &(struct item){upload.path, upload.kind, upload.mode, upload.size, FD_UPLOADS, offset});
            offset += (int64_t)upload.size;
        }
    }
    need(STAGE_UPLOAD, sys(SYS_close, work), "/work");
}
