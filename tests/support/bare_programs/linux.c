/* The start of a Linux program without a C library, and its output; it has the functions of semihosting.h. */

#include <stddef.h>

_Noreturn void host_exit(int code);
void host_write(const void *data, size_t bytes);
int main(void);

enum { SYS_WRITE = 64, SYS_EXIT = 93 };

static long call_linux(long number, long a, long b, long c)
{
#if defined(__riscv)
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2) : "memory");
    return a0;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    return x0;
#else
#error "no system calls for this architecture"
#endif
}

void host_write(const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes > 0) {
        long written = call_linux(SYS_WRITE, 1, (long)at, (long)bytes);
        if (written <= 0)
            host_exit(98);
        at += written;
        bytes -= (size_t)written;
    }
}

_Noreturn void host_exit(int code)
{
    for (;;)
        call_linux(SYS_EXIT, code, 0, 0);
}

__attribute__((used)) void begin(void)
{
    host_exit(main());
}

/* Linux starts a program with an aligned stack, and expects no return. */
__asm__(".globl _start\n_start:\n"
#if defined(__riscv)
        "tail begin\n"
#else
        "b begin\n"
#endif
);
