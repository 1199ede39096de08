/* A program in a WebAssembly module, whose input and output host.mjs provides. */

#include "host.h"

#define IMPORTED(name) __attribute__((import_module("host"), import_name(name)))

IMPORTED("read") size_t imported_read(void *data, size_t bytes);
IMPORTED("write") void imported_write(const void *data, size_t bytes);
IMPORTED("fail") _Noreturn void imported_fail(const char *text);

size_t host_read(void *data, size_t bytes)
{
    return imported_read(data, bytes);
}

void host_write(const void *data, size_t bytes)
{
    imported_write(data, bytes);
}

_Noreturn void host_fail(const char *text)
{
    imported_fail(text);
}

void *host_memory(size_t bytes)
{
    enum { PAGE = 65536 };
    size_t before = __builtin_wasm_memory_grow(0, bytes / PAGE + 1);
    if (before == (size_t)-1)
        host_fail("there is not enough memory");
    return (void *)(before * PAGE);
}
