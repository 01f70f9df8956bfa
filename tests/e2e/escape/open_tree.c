/* Tries: copies the tree at / as a detached mount and attaches it elsewhere
 * Must:  EPERM
 * See:   open_tree(2) */
#include "attempt.h"

int main(void)
{
    int tree = (int)attempt("open_tree", syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */));
    attempt("move_mount", syscall(SYS_move_mount, tree, "", AT_FDCWD, "/tmp", 4 /* MOVE_MOUNT_F_EMPTY_PATH */));
    reached("/ is mounted a second time");
}
