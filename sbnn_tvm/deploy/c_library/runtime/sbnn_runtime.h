/* The fixed part of every model: contexts, checks, memory. It is included by the generated source of a model, which
   describes itself in the variable sbnn_this_model; all of it is static, so that models do not share symbols. */

#if defined(SBNN_FREESTANDING)
void *memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
#else
#include <string.h>
#endif

#define SBNN_ALIGNMENT 64u
#define SBNN_MAGIC 0x73626e6eu /* of a context that can run */
#define SBNN_FAILED 0x6e6e6273u /* of one that init could not complete; it has a text */

/* Memory of struct sbnn_context, and what aligning it may cost; the generator knows these numbers. */
#define SBNN_CONTEXT_BYTES 320u
#define SBNN_SLACK (SBNN_ALIGNMENT - 1)

#if defined(SBNN_FREESTANDING)
#define SBNN_THREAD_LOCAL
#else
#define SBNN_THREAD_LOCAL _Thread_local
#endif

static size_t sbnn_aligned(size_t bytes)
{
    return (bytes + SBNN_ALIGNMENT - 1) / SBNN_ALIGNMENT * SBNN_ALIGNMENT;
}

#include "sbnn_cpu.h"
#include "sbnn_threads.h"

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
    const struct sbnn_need *needs; /* what the CPU must have */
    size_t need_count;
    size_t arena_bytes;
    size_t decoded_bytes;
    size_t task_bytes; /* workspace of a task of a parallel loop */
    int parallel;      /* whether there are parallel loops */
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
    struct sbnn_context *self; /* a copy of a context elsewhere is none */
    uint32_t magic;
    int error; /* the last code */
#if SBNN_THREADS
    atomic_flag busy; /* whether a call is using it */
#else
    int busy;
#endif
    const struct sbnn_model *model;
    const struct sbnn_build *build;
    unsigned char *decoded;
    unsigned char *arena;
    unsigned char *tasks;   /* workspace of tasks on the caller's thread */
    struct sbnn_pool *pool; /* NULL with one thread */
    size_t threads;
    size_t said;    /* length of the text */
    char text[184]; /* what the last error was; empty: what its code says */
};

_Static_assert(sizeof(struct sbnn_context) <= SBNN_CONTEXT_BYTES, "the generator knows another size");

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

static int sbnn_parallel_launch(sbnn_task task, void *data, int tasks)
{
    struct sbnn_workspace *mine = &sbnn_workspace;
    unsigned char *memory = mine->tasks != NULL ? mine->tasks : mine->top;
    size_t bytes = mine->tasks != NULL ? mine->task_bytes : (size_t)(mine->end - mine->top);
    sbnn_parallel_group group = {NULL, 1};
    int number, failed = 0;
    if (mine->pool != NULL) /* 0 tasks means: as many as there are threads */
        return sbnn_pool_run(mine->pool, task, data, tasks > 0 ? tasks : sbnn_pool_threads(mine->pool), memory);
    if (tasks > 0)
        group.num_task = tasks;
    for (number = 0; number < group.num_task; number++)
        failed |= sbnn_run_task(task, number, &group, data, memory, bytes) != 0;
    return failed ? -1 : 0;
}

/* What the generated calls use. */

static inline void sbnn_use_workspace(unsigned char *memory, size_t bytes)
{
    sbnn_workspace.top = memory;
    sbnn_workspace.end = memory + bytes;
}

static inline const void *sbnn_input_at(const struct sbnn_frame *frame, size_t index, unsigned char *room)
{
    const sbnn_input *input = &frame->inputs[index];
    if ((uintptr_t)input->data % SBNN_ALIGNMENT == 0)
        return input->data;
    memcpy(room, input->data, input->bytes);
    return room;
}

static inline void *sbnn_output_at(const struct sbnn_frame *frame, size_t index, unsigned char *room)
{
    void *data = frame->outputs[index].data;
    return (uintptr_t)data % SBNN_ALIGNMENT == 0 ? data : room;
}

static inline void sbnn_return(const struct sbnn_frame *frame, size_t index, const void *result)
{
    const sbnn_output *output = &frame->outputs[index];
    if (output->data != result && output->bytes > 0)
        memcpy(output->data, result, output->bytes);
}

/* Texts. */

static const char *sbnn_text(int code)
{
    switch (code) {
    case SBNN_OK: return "no error";
    case SBNN_ERROR_NULL: return "a pointer is NULL";
    case SBNN_ERROR_MEMORY: return "the memory for the context is too small: ask context_bytes with the same options";
    case SBNN_ERROR_CONTEXT: return "the memory holds no context of this model: call init first";
    case SBNN_ERROR_SIZE: return "an input or output has another number of bytes than the model declares";
    case SBNN_ERROR_OPTIONS: return "an option has a value that is not allowed: threads must be at most 256";
    case SBNN_ERROR_CPU: return "this CPU lacks an instruction that the library needs";
#if defined(SBNN_WEAK)
    case SBNN_ERROR_THREADS: return "the system refuses more threads, or the program has none: link it with -pthread";
#else
    case SBNN_ERROR_THREADS: return "threads are not available here, or the system refuses more: set threads to 1";
#endif
    case SBNN_ERROR_KERNEL: return "a kernel failed; this is a defect of the library";
    case SBNN_ERROR_OVERLAP: return "an output overlaps an input, another output, or the context";
    case SBNN_ERROR_BUSY: return "another call is using the context: give each thread a context of its own";
    default: return "unknown error";
    }
}

/* Appends to the text of a context what fits. */
static void sbnn_say(struct sbnn_context *context, const char *part)
{
    while (*part != '\0' && context->said < sizeof context->text - 1)
        context->text[context->said++] = *part++;
    context->text[context->said] = '\0';
}

static void sbnn_say_number(struct sbnn_context *context, size_t number)
{
    char digits[24];
    size_t at = sizeof digits - 1;
    digits[at] = '\0';
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    sbnn_say(context, digits + at);
}

static void sbnn_say_tensor(struct sbnn_context *context, const char *kind, size_t index, const sbnn_tensor *tensor)
{
    size_t end;
    sbnn_say(context, kind);
    sbnn_say(context, " ");
    sbnn_say_number(context, index);
    sbnn_say(context, " '");
    end = context->said + 64;
    sbnn_say(context, tensor->name);
    if (context->said > end) { /* leave room for what follows; cut between UTF-8 characters */
        while (((unsigned char)context->text[end] & 0xC0u) == 0x80u)
            end--;
        context->said = end;
        sbnn_say(context, "...");
    }
    sbnn_say(context, "'");
}

/* The interface. */

static struct sbnn_context *sbnn_context_in(const void *memory)
{
    uintptr_t address = (uintptr_t)memory;
    return (struct sbnn_context *)(address + (SBNN_ALIGNMENT - address % SBNN_ALIGNMENT) % SBNN_ALIGNMENT);
}

static int sbnn_is_context(const struct sbnn_context *context, uint32_t magic)
{
    return context->magic == magic && context->self == context && context->model == &sbnn_this_model;
}

/* The first build that this CPU can run; they are in order. NULL if there is none. */
static const struct sbnn_build *sbnn_pick(void)
{
    const struct sbnn_build *build = sbnn_this_model.builds;
    size_t left = sbnn_this_model.build_count;
    for (; left > 0; left--, build++)
        if (sbnn_cpu_has(build->needs, build->need_count))
            return build;
    return NULL;
}

/* The threads that the options ask for, as far as the model can use them; 0 if that is not allowed. */
static size_t sbnn_threads(const struct sbnn_build *build, const sbnn_options *options)
{
    if (options == NULL || options->threads == 0)
        return 1;
    if (options->threads > SBNN_MOST_THREADS)
        return 0;
    return build->parallel ? options->threads : 1;
}

static size_t sbnn_bytes(const struct sbnn_build *build, size_t threads)
{
    return SBNN_SLACK + SBNN_CONTEXT_BYTES + sbnn_aligned(build->decoded_bytes) + sbnn_aligned(build->arena_bytes) +
           sbnn_aligned(build->task_bytes) + sbnn_pool_bytes(threads, build->task_bytes);
}

static size_t sbnn_context_bytes(const sbnn_options *options)
{
    const struct sbnn_build *build = sbnn_pick();
    size_t threads;
    if (build == NULL)
        return SBNN_SLACK + SBNN_CONTEXT_BYTES; /* room for the text of what init will return */
    threads = sbnn_threads(build, options);
    return threads == 0 ? 0 : sbnn_bytes(build, threads);
}

/* Takes a context for a call; not 0 if another one has it. */
static int sbnn_take(struct sbnn_context *context)
{
#if SBNN_THREADS
    return atomic_flag_test_and_set_explicit(&context->busy, memory_order_acquire);
#else
    int before = context->busy;
    context->busy = 1;
    return before;
#endif
}

static void sbnn_release(struct sbnn_context *context)
{
#if SBNN_THREADS
    atomic_flag_clear_explicit(&context->busy, memory_order_release);
#else
    context->busy = 0;
#endif
}

/* Points the workspace of this thread to a context; kernels that need some for themselves say so. */
static void sbnn_enter(struct sbnn_context *context)
{
    sbnn_workspace.top = sbnn_workspace.end = context->arena;
    sbnn_workspace.pool = context->pool;
    sbnn_workspace.tasks = context->tasks;
    sbnn_workspace.task_bytes = sbnn_aligned(context->build->task_bytes);
}

static int sbnn_init(void *memory, size_t bytes, const sbnn_options *options)
{
    const struct sbnn_build *build = sbnn_pick();
    size_t threads;
    struct sbnn_workspace outside = sbnn_workspace;
    struct sbnn_context *context;
    struct sbnn_frame frame;
    if (memory == NULL)
        return SBNN_ERROR_NULL;
    if (bytes < SBNN_SLACK + SBNN_CONTEXT_BYTES)
        return SBNN_ERROR_MEMORY; /* too small for a text */
    context = sbnn_context_in(memory);
    memset(context, 0, sizeof *context);
    context->self = context;
    context->magic = SBNN_FAILED;
    context->model = &sbnn_this_model;
    context->build = build;
    if (build == NULL)
        return context->error = SBNN_ERROR_CPU;
    threads = sbnn_threads(build, options);
    if (threads == 0)
        return context->error = SBNN_ERROR_OPTIONS;
    if (bytes < sbnn_bytes(build, threads)) {
        sbnn_say(context, "the context has ");
        sbnn_say_number(context, bytes);
        sbnn_say(context, " bytes of memory, but needs ");
        sbnn_say_number(context, sbnn_bytes(build, threads));
        sbnn_say(context, " with these options");
        return context->error = SBNN_ERROR_MEMORY;
    }
    context->threads = threads;
    context->decoded = (unsigned char *)context + SBNN_CONTEXT_BYTES;
    context->arena = context->decoded + sbnn_aligned(build->decoded_bytes);
    context->tasks = context->arena + sbnn_aligned(build->arena_bytes);
    if (threads > 1) {
        unsigned char *pool = context->tasks + sbnn_aligned(build->task_bytes);
        context->pool = sbnn_pool_start(pool, threads, build->task_bytes);
        if (context->pool == NULL)
            return context->error = SBNN_ERROR_THREADS;
    }
    frame.arena = context->arena;
    frame.decoded = context->decoded;
    frame.inputs = NULL;
    frame.outputs = NULL;
    sbnn_enter(context);
    context->error = build->prepare(&frame);
    sbnn_workspace = outside;
    if (context->error == SBNN_OK)
        context->magic = SBNN_MAGIC;
    else
        sbnn_pool_close(context->pool);
    return context->error;
}

static int sbnn_check_tensor(struct sbnn_context *context, const char *kind, size_t index, const sbnn_tensor *tensor,
                             const void *data, size_t bytes)
{
    if (bytes != tensor->bytes) {
        sbnn_say_tensor(context, kind, index, tensor);
        sbnn_say(context, " has ");
        sbnn_say_number(context, bytes);
        sbnn_say(context, " bytes, but the model declares ");
        sbnn_say_number(context, tensor->bytes);
        return SBNN_ERROR_SIZE;
    }
    if (data == NULL && bytes > 0) {
        sbnn_say_tensor(context, kind, index, tensor);
        sbnn_say(context, " is NULL");
        return SBNN_ERROR_NULL;
    }
    return SBNN_OK;
}

static int sbnn_overlap(const void *one, size_t one_bytes, const void *other, size_t other_bytes)
{
    uintptr_t a = (uintptr_t)one, b = (uintptr_t)other;
    return a < b ? b - a < one_bytes && other_bytes > 0 : a - b < other_bytes && one_bytes > 0;
}

static int sbnn_check_overlap(struct sbnn_context *context, const sbnn_input *inputs, const sbnn_output *outputs,
                              size_t index)
{
    const struct sbnn_model *model = &sbnn_this_model;
    const sbnn_output *output = &outputs[index];
    const char *what = NULL;
    const sbnn_tensor *tensor = NULL;
    size_t other;
    if (sbnn_overlap(output->data, output->bytes, context, sbnn_bytes(context->build, context->threads) - SBNN_SLACK))
        what = "the context";
    for (other = 0; other < model->input_count; other++)
        if (sbnn_overlap(output->data, output->bytes, inputs[other].data, inputs[other].bytes))
            what = "input", tensor = &model->inputs[other];
    for (other = 0; other < index; other++)
        if (sbnn_overlap(output->data, output->bytes, outputs[other].data, outputs[other].bytes))
            what = "output", tensor = &model->outputs[other];
    if (what == NULL)
        return SBNN_OK;
    sbnn_say_tensor(context, "output", index, &model->outputs[index]);
    sbnn_say(context, " overlaps ");
    sbnn_say(context, what);
    if (tensor != NULL) {
        sbnn_say(context, " '");
        sbnn_say(context, tensor->name); /* what does not fit is cut */
        sbnn_say(context, "'");
    }
    return SBNN_ERROR_OVERLAP;
}

static int sbnn_check_buffers(struct sbnn_context *context, const sbnn_input *inputs, const sbnn_output *outputs)
{
    const struct sbnn_model *model = &sbnn_this_model;
    size_t index;
    int error = SBNN_OK;
    if ((inputs == NULL && model->input_count > 0) || (outputs == NULL && model->output_count > 0)) {
        sbnn_say(context, inputs == NULL && model->input_count > 0 ? "the array of inputs is NULL"
                                                                   : "the array of outputs is NULL");
        return SBNN_ERROR_NULL;
    }
    for (index = 0; index < model->input_count && error == SBNN_OK; index++)
        error = sbnn_check_tensor(context, "input", index, &model->inputs[index], inputs[index].data,
                                  inputs[index].bytes);
    for (index = 0; index < model->output_count && error == SBNN_OK; index++) {
        error = sbnn_check_tensor(context, "output", index, &model->outputs[index], outputs[index].data,
                                  outputs[index].bytes);
        if (error == SBNN_OK)
            error = sbnn_check_overlap(context, inputs, outputs, index);
    }
    return error;
}

static int sbnn_run(void *memory, const sbnn_input *inputs, const sbnn_output *outputs)
{
    struct sbnn_workspace outside = sbnn_workspace;
    struct sbnn_context *context;
    struct sbnn_frame frame;
    int error;
    if (memory == NULL)
        return SBNN_ERROR_NULL;
    context = sbnn_context_in(memory);
    if (!sbnn_is_context(context, SBNN_MAGIC))
        return SBNN_ERROR_CONTEXT;
    if (sbnn_take(context))
        return SBNN_ERROR_BUSY;
    context->text[context->said = 0] = '\0';
    error = sbnn_check_buffers(context, inputs, outputs);
    if (error == SBNN_OK) {
        sbnn_pool_awake(context->pool);
        frame.arena = context->arena;
        frame.decoded = context->decoded;
        frame.inputs = inputs;
        frame.outputs = outputs;
        sbnn_enter(context);
        error = context->build->run(&frame);
        sbnn_workspace = outside; /* a signal handler may run a model within another one */
    }
    context->error = error;
    sbnn_release(context);
    return error;
}

static void sbnn_close(void *memory)
{
    struct sbnn_context *context = memory == NULL ? NULL : sbnn_context_in(memory);
    if (context == NULL || !sbnn_is_context(context, SBNN_MAGIC) || sbnn_take(context))
        return;
    sbnn_pool_close(context->pool);
    context->magic = 0;
}

static const char *sbnn_last_error(const void *memory)
{
    const struct sbnn_context *context;
    if (memory == NULL)
        return "the context is NULL";
    context = sbnn_context_in(memory);
    if (!sbnn_is_context(context, SBNN_MAGIC) && !sbnn_is_context(context, SBNN_FAILED))
        return sbnn_text(SBNN_ERROR_CONTEXT);
    return context->said != 0 ? context->text : sbnn_text(context->error);
}
