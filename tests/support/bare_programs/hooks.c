/* What the machine code of kernels calls: memory for large temporaries, parallel loops. One thread, one kernel at a
   time. */

#include <stddef.h>
#include <stdint.h>

typedef int (*task_function)(int task, void *group, void *data);

static _Alignas(64) unsigned char memory[WORKSPACE_BYTES + 64];
static unsigned char *top = memory;

static void *allocate(int device_type, int device, uint64_t bytes, int code, int bits)
{
    unsigned char *result = top;
    size_t size = ((size_t)bytes + 63) / 64 * 64;
    (void)device_type, (void)device, (void)code, (void)bits;
    if (size > (size_t)(memory + WORKSPACE_BYTES - top))
        return NULL;
    top += size;
    return result;
}

static int release(int device_type, int device, void *pointer)
{
    (void)device_type, (void)device;
    top = pointer;
    return 0;
}

static int launch(task_function task, void *data, int tasks)
{
    struct {
        void *handle;
        int32_t tasks;
    } group = {NULL, 1};
    (void)tasks;
    return task(0, &group, data);
}

int (*__TVMBackendParallelLaunch)(task_function, void *, int) = launch;
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = release;
