/* Tries: loads a BPF program
 * Must:  EPERM
 * See:   bpf(2); CVE-2021-3490 and others */
#include "attempt.h"

#include <linux/bpf.h>

int main(void)
{
    const struct bpf_insn code[] = {{.code = 0xb7}, {.code = 0x95}}; /* r0 = 0; exit */
    union bpf_attr attributes = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER};
    attributes.insns = (uint64_t)(uintptr_t)code;
    attributes.insn_cnt = 2;
    attributes.license = (uint64_t)(uintptr_t)"GPL";
    attempt("bpf", syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes));
    reached("a program is loaded");
}
