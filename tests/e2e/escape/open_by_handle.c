/* Tries: opens files by handle, which no mount namespace restrains
 * Must:  EPERM
 * See:   open_by_handle_at(2); "Shocker", Docker before 1.0 */
#include "attempt.h"

int main(void)
{
    struct {
        struct file_handle head;
        unsigned char rest[128];
    } handle = {.head.handle_bytes = 128};
    int mount_id, place = (int)attempt("open", open("/tmp", O_RDONLY | O_DIRECTORY));
    attempt("name_to_handle_at", name_to_handle_at(AT_FDCWD, "/tmp", &handle.head, &mount_id, 0));
    attempt("open_by_handle_at", open_by_handle_at(place, &handle.head, O_RDONLY));
    reached("a directory by its handle");
}
