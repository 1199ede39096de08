/* A program with a C library: for a model whose kernels call functions of mathematics. */

#include "host.h"

#include <stdio.h>
#include <stdlib.h>

size_t host_read(void *data, size_t bytes)
{
    return fread(data, 1, bytes, stdin);
}

void host_write(const void *data, size_t bytes)
{
    if (fwrite(data, 1, bytes, stdout) != bytes || fflush(stdout) != 0)
        exit(2);
}

_Noreturn void host_fail(const char *text)
{
    fputs(text, stderr);
    exit(1);
}

void *host_memory(size_t bytes)
{
    void *memory = malloc(bytes + 1);
    if (memory == NULL)
        host_fail("there is not enough memory");
    return memory;
}
