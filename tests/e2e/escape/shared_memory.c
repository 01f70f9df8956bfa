/* Tries: attaches shared memory of the machine by its key
 * Must:  ENOENT
 * See:   shmget(2), ipc_namespaces(7) */
#include "attempt.h"

#include <sys/shm.h>

int main(int argc, char **argv)
{
    int id = (int)attempt("shmget", shmget(argc > 1 ? atoi(argv[1]) : 0, 0, 0));
    attempt("shmat", (long)shmat(id, NULL, SHM_RDONLY));
    reached("memory of another");
}
