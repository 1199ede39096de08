/* The fixed part of every model: contexts, checks, memory. It is included by the generated source of a model, which
   describes itself in the variable sbnn_this_model; all of it is static, so that models do not share symbols. */

#if defined(SBNN_FREESTANDING)
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
#else
#include <string.h>
#endif

#define SBNN_ALIGNMENT 64u
#define SBNN_MAGIC 0x73626e6eu

#if defined(SBNN_FREESTANDING)
#define SBNN_THREAD_LOCAL
#else
#define SBNN_THREAD_LOCAL _Thread_local
#endif

/* What the calls of a run work on. */
struct sbnn_frame {
    unsigned char *arena;       /* all values between kernels */
    unsigned char *decoded;     /* constants that init decoded */
    const sbnn_input *inputs;   /* the caller's */
    const sbnn_output *outputs; /* the caller's */
};

/* The model for one kind of CPU. */
struct sbnn_build {
    const char *name;
    size_t arena_bytes;
    size_t decoded_bytes;
    size_t task_bytes; /* workspace of a task of a parallel loop */
    int (*prepare)(const struct sbnn_frame *);
    int (*run)(const struct sbnn_frame *);
};

struct sbnn_model {
    const char *version;
    const sbnn_tensor *inputs;
    size_t input_count;
    const sbnn_tensor *outputs;
    size_t output_count;
    const struct sbnn_build *builds;
    size_t build_count;
};

static const struct sbnn_model sbnn_this_model; /* in the source of the model */

struct sbnn_context {
    uint32_t magic;
    int error; /* the last code */
    const struct sbnn_model *model;
    const struct sbnn_build *build;
    size_t threads;
    unsigned char *decoded;
    unsigned char *arena;
    unsigned char *tasks; /* workspaces of the tasks of parallel loops, one for each thread */
};

/* The memory that kernels of this thread may allocate. */
struct sbnn_workspace {
    unsigned char *top;
    unsigned char *end;
    struct sbnn_context *context;
};

static SBNN_THREAD_LOCAL struct sbnn_workspace sbnn_workspace;

static size_t sbnn_aligned(size_t bytes)
{
    return (bytes + SBNN_ALIGNMENT - 1) / SBNN_ALIGNMENT * SBNN_ALIGNMENT;
}

/* Hooks of the machine code. */

static void *sbnn_alloc_workspace(int device_type, int device, uint64_t bytes, int code, int bits)
{
    unsigned char *result = sbnn_workspace.top;
    size_t size = sbnn_aligned((size_t)bytes);
    (void)device_type, (void)device, (void)code, (void)bits;
    if ((size_t)(sbnn_workspace.end - result) < size)
        return NULL;
    sbnn_workspace.top = result + size;
    return result;
}

static int sbnn_free_workspace(int device_type, int device, void *pointer)
{
    (void)device_type, (void)device;
    sbnn_workspace.top = pointer; /* the last one allocated is the first one freed */
    return 0;
}

typedef struct {
    void *sync_handle;
    int32_t num_task;
} sbnn_parallel_group;

typedef int (*sbnn_task)(int task, sbnn_parallel_group *group, void *data);

static int sbnn_parallel_launch(sbnn_task task, void *data, int tasks)
{
    sbnn_parallel_group group = {NULL, 1};
    struct sbnn_workspace outside = sbnn_workspace;
    int result;
    (void)tasks;
    sbnn_workspace.top = outside.context->tasks;
    sbnn_workspace.end = sbnn_workspace.top + sbnn_aligned(outside.context->build->task_bytes);
    result = task(0, &group, data);
    sbnn_workspace = outside;
    return result;
}

/* What the generated calls use. */

static void sbnn_use_workspace(unsigned char *memory, size_t bytes)
{
    sbnn_workspace.top = memory;
    sbnn_workspace.end = memory + bytes;
}

static const void *sbnn_input_at(const struct sbnn_frame *frame, size_t index, unsigned char *room)
{
    const sbnn_input *input = &frame->inputs[index];
    if ((uintptr_t)input->data % SBNN_ALIGNMENT == 0)
        return input->data;
    memcpy(room, input->data, input->bytes);
    return room;
}

static void *sbnn_output_at(const struct sbnn_frame *frame, size_t index, unsigned char *room)
{
    void *data = frame->outputs[index].data;
    return (uintptr_t)data % SBNN_ALIGNMENT == 0 ? data : room;
}

static void sbnn_return(const struct sbnn_frame *frame, size_t index, const void *result)
{
    const sbnn_output *output = &frame->outputs[index];
    if (output->data != result)
        memcpy(output->data, result, output->bytes);
}

/* The interface. */

static const char *sbnn_text(int code)
{
    switch (code) {
    case SBNN_OK: return "no error";
    case SBNN_ERROR_NULL: return "a pointer is NULL";
    case SBNN_ERROR_MEMORY: return "the memory for the context is too small: ask context_bytes with the same options";
    case SBNN_ERROR_CONTEXT: return "the memory holds no context of this model: call init first";
    case SBNN_ERROR_SIZE: return "an input or output has another number of bytes than the model declares";
    case SBNN_ERROR_OPTIONS: return "an option has a value that is not allowed";
    case SBNN_ERROR_CPU: return "this CPU lacks an instruction that the library needs";
    case SBNN_ERROR_THREADS: return "threads are not available here, or cannot be started";
    case SBNN_ERROR_KERNEL: return "a kernel failed";
    default: return "unknown error";
    }
}

static struct sbnn_context *sbnn_context_in(const void *memory)
{
    uintptr_t address = (uintptr_t)memory;
    return (struct sbnn_context *)(address + (SBNN_ALIGNMENT - address % SBNN_ALIGNMENT) % SBNN_ALIGNMENT);
}

static struct sbnn_context *sbnn_checked(const void *memory)
{
    struct sbnn_context *context = sbnn_context_in(memory);
    return context->magic == SBNN_MAGIC && context->model == &sbnn_this_model ? context : NULL;
}

static const struct sbnn_build *sbnn_pick(void)
{
    return &sbnn_this_model.builds[0];
}

static size_t sbnn_threads(const sbnn_options *options)
{
    return options == NULL || options->threads == 0 ? 1 : options->threads;
}

static size_t sbnn_context_bytes(const sbnn_options *options)
{
    const struct sbnn_build *build = sbnn_pick();
    return SBNN_ALIGNMENT - 1 + sbnn_aligned(sizeof(struct sbnn_context)) + sbnn_aligned(build->decoded_bytes) +
           sbnn_aligned(build->arena_bytes) + sbnn_threads(options) * sbnn_aligned(build->task_bytes);
}

static int sbnn_init(void *memory, size_t bytes, const sbnn_options *options)
{
    const struct sbnn_build *build = sbnn_pick();
    struct sbnn_context *context;
    struct sbnn_frame frame;
    if (memory == NULL)
        return SBNN_ERROR_NULL;
    if (sbnn_threads(options) > 1)
        return SBNN_ERROR_THREADS;
    if (bytes < sbnn_context_bytes(options))
        return SBNN_ERROR_MEMORY;
    context = sbnn_context_in(memory);
    memset(context, 0, sizeof *context);
    context->model = &sbnn_this_model;
    context->build = build;
    context->threads = sbnn_threads(options);
    context->decoded = (unsigned char *)context + sbnn_aligned(sizeof *context);
    context->arena = context->decoded + sbnn_aligned(build->decoded_bytes);
    context->tasks = context->arena + sbnn_aligned(build->arena_bytes);
    frame.arena = context->arena;
    frame.decoded = context->decoded;
    frame.inputs = NULL;
    frame.outputs = NULL;
    sbnn_workspace.context = context;
    context->error = build->prepare(&frame);
    if (context->error == SBNN_OK)
        context->magic = SBNN_MAGIC;
    return context->error;
}

static int sbnn_check_buffers(const sbnn_input *inputs, const sbnn_output *outputs)
{
    size_t index;
    if ((inputs == NULL && sbnn_this_model.input_count > 0) || (outputs == NULL && sbnn_this_model.output_count > 0))
        return SBNN_ERROR_NULL;
    for (index = 0; index < sbnn_this_model.input_count; index++) {
        if (inputs[index].bytes != sbnn_this_model.inputs[index].bytes)
            return SBNN_ERROR_SIZE;
        if (inputs[index].data == NULL && inputs[index].bytes > 0)
            return SBNN_ERROR_NULL;
    }
    for (index = 0; index < sbnn_this_model.output_count; index++) {
        if (outputs[index].bytes != sbnn_this_model.outputs[index].bytes)
            return SBNN_ERROR_SIZE;
        if (outputs[index].data == NULL && outputs[index].bytes > 0)
            return SBNN_ERROR_NULL;
    }
    return SBNN_OK;
}

static int sbnn_run(void *memory, const sbnn_input *inputs, const sbnn_output *outputs)
{
    struct sbnn_context *context;
    struct sbnn_frame frame;
    int error;
    if (memory == NULL)
        return SBNN_ERROR_NULL;
    context = sbnn_checked(memory);
    if (context == NULL)
        return SBNN_ERROR_CONTEXT;
    error = sbnn_check_buffers(inputs, outputs);
    if (error == SBNN_OK) {
        frame.arena = context->arena;
        frame.decoded = context->decoded;
        frame.inputs = inputs;
        frame.outputs = outputs;
        sbnn_workspace.context = context;
        error = context->build->run(&frame);
    }
    context->error = error;
    return error;
}

static void sbnn_close(void *memory)
{
    struct sbnn_context *context = memory == NULL ? NULL : sbnn_checked(memory);
    if (context != NULL)
        context->magic = 0;
}

static const char *sbnn_last_error(const void *memory)
{
    const struct sbnn_context *context;
    if (memory == NULL)
        return sbnn_text(SBNN_ERROR_NULL);
    context = sbnn_checked(memory);
    return context == NULL ? sbnn_text(SBNN_ERROR_CONTEXT) : sbnn_text(context->error);
}
