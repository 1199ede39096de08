/* A Linux program without a C library: so it is linked in a moment for every architecture.

   It has one thread. Functions for threads, to which the library refers, are left undefined by the linker. */

#include "host.h"

#include <stdint.h>

#if defined(__x86_64__)
enum { READ = 0, WRITE = 1, MAP = 9, EXIT = 231, SET_TLS = 158 };
#elif defined(__arm__)
enum { READ = 3, WRITE = 4, MAP = 192, EXIT = 248, SET_TLS = 0xf0005 };
#elif defined(__aarch64__) || defined(__riscv)
enum { READ = 63, WRITE = 64, MAP = 222, EXIT = 94 };
#else
#error "no system calls for this architecture"
#endif

static long call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#elif defined(__arm__)
    register long r7 __asm__("r7") = number;
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    register long r3 __asm__("r3") = d;
    register long r4 __asm__("r4") = e;
    register long r5 __asm__("r5") = f;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5) : "memory");
    return r0;
#else
    register long a7 __asm__("a7") = number;
    register long a0 __asm__("a0") = a;
    register long a1 __asm__("a1") = b;
    register long a2 __asm__("a2") = c;
    register long a3 __asm__("a3") = d;
    register long a4 __asm__("a4") = e;
    register long a5 __asm__("a5") = f;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
    return a0;
#endif
}

static _Noreturn void leave(int code)
{
    for (;;)
        call(EXIT, code, 0, 0, 0, 0, 0);
}

size_t host_read(void *data, size_t bytes)
{
    size_t done = 0;
    while (done < bytes) {
        long got = call(READ, 0, (long)data + (long)done, (long)(bytes - done), 0, 0, 0);
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    return done;
}

static void write_to(int file, const void *data, size_t bytes)
{
    const char *at = data;
    while (bytes > 0) {
        long written = call(WRITE, file, (long)at, (long)bytes, 0, 0, 0);
        if (written <= 0)
            leave(2);
        at += written;
        bytes -= (size_t)written;
    }
}

void host_write(const void *data, size_t bytes)
{
    write_to(1, data, bytes);
}

_Noreturn void host_fail(const char *text)
{
    size_t length = 0;
    while (text[length] != 0)
        length++;
    write_to(2, text, length);
    leave(1);
}

void *host_memory(size_t bytes)
{
    enum { READABLE = 1, WRITABLE = 2, PRIVATE = 2, ANONYMOUS = 0x20 };
    long at = call(MAP, 0, (long)(bytes + 1), READABLE | WRITABLE, PRIVATE | ANONYMOUS, -1, 0);
    if (at < 0 && at > -4096)
        host_fail("there is not enough memory");
    return (void *)at;
}

/* Variables of a thread. The linker places them, and says where in the headers of the program. */

#if UINTPTR_MAX > 0xffffffffu
struct header { unsigned char before[32]; uint64_t table; unsigned char between[14]; uint16_t size, count; };
struct segment { uint32_t type, flags; uint64_t offset, address, physical, file_bytes, bytes, alignment; };
#else
struct header { unsigned char before[28]; uint32_t table; unsigned char between[10]; uint16_t size, count; };
struct segment { uint32_t type, offset, address, physical, file_bytes, bytes, flags, alignment; };
#endif

extern const struct header __ehdr_start __attribute__((visibility("hidden")));
static _Alignas(64) unsigned char thread_memory[4096];
static unsigned char *thread_variables;

static void make_thread_variables(void)
{
    enum { TLS = 7, ROOM = 1024 };
    const struct segment *segment = (const void *)((const char *)&__ehdr_start + __ehdr_start.table);
    size_t index, byte;
    unsigned char *thread = thread_memory + ROOM; /* what the register for it points to */
    thread_variables = thread;
    for (index = 0; index < __ehdr_start.count; index++, segment++) {
        size_t alignment = segment->alignment > 0 ? segment->alignment : 1;
        if (segment->type != TLS)
            continue;
        if (segment->bytes > ROOM || alignment > 64)
            host_fail("the variables of a thread are too large");
#if defined(__x86_64__)
        thread_variables = thread - (segment->bytes + alignment - 1) / alignment * alignment;
#elif defined(__riscv)
        thread_variables = thread;
#else
        thread_variables = thread + (alignment > 2 * sizeof(void *) ? alignment : 2 * sizeof(void *));
#endif
        for (byte = 0; byte < segment->file_bytes; byte++)
            thread_variables[byte] = ((const unsigned char *)segment->address)[byte];
    }
#if defined(__x86_64__)
    enum { SET_FS = 0x1002 };
    *(void **)thread = thread;
    call(SET_TLS, SET_FS, (long)thread, 0, 0, 0, 0);
#elif defined(__aarch64__)
    __asm__ volatile("msr tpidr_el0, %0" : : "r"(thread));
#elif defined(__arm__)
    call(SET_TLS, (long)thread, 0, 0, 0, 0, 0);
#else
    __asm__ volatile("mv tp, %0" : : "r"(thread));
#endif
}

struct thread_variable {
    size_t module, offset;
};

void *__tls_get_addr(const struct thread_variable *variable)
{
#if defined(__riscv)
    return thread_variables + variable->offset + 0x800;
#else
    return thread_variables + variable->offset;
#endif
}

static const unsigned long *auxiliary;

unsigned long getauxval(unsigned long type)
{
    const unsigned long *each;
    for (each = auxiliary; each[0] != 0; each += 2)
        if (each[0] == type)
            return each[1];
    return 0;
}

#if defined(__arm__)
/* Divisions of code for CPUs without an instruction for it. Those that run this have one. */

int __aeabi_idiv(int a, int b) { return a / b; }
unsigned __aeabi_uidiv(unsigned a, unsigned b) { return a / b; }

uint64_t __aeabi_idivmod(int a, int b) /* the quotient in the first register, the remainder in the second */
{
    return (uint64_t)(uint32_t)(a - a / b * b) << 32 | (uint32_t)(a / b);
}

uint64_t __aeabi_uidivmod(unsigned a, unsigned b)
{
    return (uint64_t)(a - a / b * b) << 32 | a / b;
}
#endif

int main(void);

__attribute__((used)) static void begin(const unsigned long *stack)
{
    const unsigned long *environment = stack + 1 + stack[0] + 1;
    while (*environment != 0)
        environment++;
    auxiliary = environment + 1;
    make_thread_variables();
    leave(main());
}

__asm__(".globl _start\n"
#if defined(__x86_64__)
        "_start: xor %ebp, %ebp\nmov %rsp, %rdi\nand $-16, %rsp\ncall begin\n"
#elif defined(__aarch64__)
        "_start: mov x0, sp\nb begin\n"
#elif defined(__arm__)
        ".arm\n.type _start, %function\n_start: mov r0, sp\nbic sp, sp, #7\nb begin\n"
#else
        "_start: mv a0, sp\ntail begin\n"
#endif
);
