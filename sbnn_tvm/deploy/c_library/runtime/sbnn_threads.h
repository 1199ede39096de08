/* Threads that share the tasks of parallel loops. A context of more than one thread has a pool of its own.

   The caller of run publishes the tasks of a loop. Whoever is free claims the next one, the caller too: it never waits
   for a thread that sleeps, only for tasks that have begun. In a forked child, where the threads do not exist, it
   computes all tasks.

   SBNN_THREADS is 0 for a build without threads. With SBNN_WEAK a program may lack the functions of pthread.h, and gets
   SBNN_ERROR_THREADS then; that is for shared libraries, which serve many programs. */

#ifndef SBNN_THREADS
#if defined(SBNN_FREESTANDING) || defined(_WIN32) || defined(__wasm__)
#define SBNN_THREADS 0
#else
#define SBNN_THREADS 1
#endif
#endif

#define SBNN_MOST_THREADS 256u

/* TVM's types, for the machine code of kernels (tvm/runtime/c_backend_api.h). */
typedef struct {
    void *sync_handle;
    int32_t num_task;
} sbnn_parallel_group;

typedef int (*sbnn_task)(int task, sbnn_parallel_group *group, void *data);

/* The memory that kernels of this thread may allocate, and the threads that may help it. */
struct sbnn_workspace {
    unsigned char *top;
    unsigned char *end;
    struct sbnn_pool *pool; /* NULL: none, or this is a task already */
    unsigned char *tasks;   /* workspace of tasks on this thread; NULL: this is a task already */
    size_t task_bytes;
};

static SBNN_THREAD_LOCAL struct sbnn_workspace sbnn_workspace;

/* Computes a task with a workspace of its own. */
static int sbnn_run_task(sbnn_task task, int number, sbnn_parallel_group *group, void *data, unsigned char *memory,
                         size_t bytes)
{
    struct sbnn_workspace outside = sbnn_workspace;
    int result;
    sbnn_workspace.top = memory;
    sbnn_workspace.end = memory + bytes;
    sbnn_workspace.pool = NULL;
    sbnn_workspace.tasks = NULL;
    result = task(number, group, data);
    sbnn_workspace = outside;
    return result;
}

#if SBNN_THREADS

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#if defined(__linux__)
#include <sys/syscall.h>
extern long syscall(long number, ...);
#endif

#if defined(SBNN_WEAK)
#pragma weak getpid
#pragma weak pthread_create
#pragma weak pthread_join
#pragma weak pthread_sigmask
#pragma weak sigfillset
#pragma weak syscall
#endif

/* How often a thread looks for work before it sleeps: some 50 us. Longer than most layers, shorter than a frame. */
#define SBNN_SPINS 2000

/* The value of `open` that ends the threads. */
#define SBNN_QUIT UINT32_MAX

struct sbnn_worker {
    struct sbnn_pool *pool;
    unsigned char *memory; /* workspace of its tasks */
    pthread_t thread;
};

struct sbnn_pool {
    _Alignas(SBNN_ALIGNMENT) _Atomic uint32_t open;       /* tasks of the loop that nobody has claimed */
    _Alignas(SBNN_ALIGNMENT) _Atomic uint32_t unfinished; /* tasks of the loop that have not ended */
    _Alignas(SBNN_ALIGNMENT) _Atomic uint32_t sleepers;   /* threads that sleep, or are about to */
    _Atomic int waiting;                                  /* whether the caller sleeps, or is about to */
    _Atomic int failed;                                   /* whether a task has failed */
    /* Fixed while a task is open or unfinished: */
    _Alignas(SBNN_ALIGNMENT) sbnn_task task;
    void *data;
    sbnn_parallel_group group;
    size_t task_bytes;
    struct sbnn_worker *workers;
    size_t started;
    pid_t process; /* which started the threads */
#if !defined(__linux__)
    pthread_mutex_t mutex;
    pthread_cond_t changed;
#endif
};

static void sbnn_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#elif defined(__arm__)
    __asm__ volatile("yield" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

/* Sleeps if a word has a value; returns when it is woken, or for no reason. */
static void sbnn_sleep(struct sbnn_pool *pool, _Atomic uint32_t *word, uint32_t value)
{
#if defined(__linux__)
    (void)pool;
    syscall(SYS_futex, word, 128 /* FUTEX_WAIT_PRIVATE */, value, NULL);
#else
    pthread_mutex_lock(&pool->mutex);
    if (atomic_load(word) == value)
        pthread_cond_wait(&pool->changed, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
#endif
}

/* Wakes at most `threads` that sleep on a word. */
static void sbnn_wake(struct sbnn_pool *pool, _Atomic uint32_t *word, int threads)
{
#if defined(__linux__)
    (void)pool;
    syscall(SYS_futex, word, 129 /* FUTEX_WAKE_PRIVATE */, threads);
#else
    (void)word, (void)threads;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->mutex);
#endif
}

/* Computes tasks of the current loop until none is open. What a claim has acquired is the loop that it belongs to: a
   loop does not end, and its fields do not change, before its last task has. */
static void sbnn_share(struct sbnn_pool *pool, unsigned char *memory)
{
    uint32_t open = atomic_load_explicit(&pool->open, memory_order_relaxed);
    while (open != 0 && open != SBNN_QUIT) {
        if (!atomic_compare_exchange_weak_explicit(&pool->open, &open, open - 1, memory_order_acquire,
                                                   memory_order_relaxed))
            continue;
        if (sbnn_run_task(pool->task, (int)open - 1, &pool->group, pool->data, memory, pool->task_bytes) != 0)
            atomic_store_explicit(&pool->failed, 1, memory_order_relaxed);
        if (atomic_fetch_sub(&pool->unfinished, 1) == 1 && atomic_load(&pool->waiting))
            sbnn_wake(pool, &pool->unfinished, 1);
        open = atomic_load_explicit(&pool->open, memory_order_relaxed);
    }
}

static void *sbnn_work(void *argument)
{
    struct sbnn_worker *worker = argument;
    struct sbnn_pool *pool = worker->pool;
    uint32_t open;
    int spins = 0;
    while ((open = atomic_load_explicit(&pool->open, memory_order_relaxed)) != SBNN_QUIT) {
        if (open != 0) {
            sbnn_share(pool, worker->memory);
            spins = 0;
        } else if (spins < SBNN_SPINS) {
            sbnn_relax();
            spins++;
        } else {
            /* Either the caller sees this thread in `sleepers`, or this thread sees the caller's tasks in `open`. */
            atomic_fetch_add(&pool->sleepers, 1);
            sbnn_sleep(pool, &pool->open, 0);
            atomic_fetch_sub(&pool->sleepers, 1);
            spins = 0;
        }
    }
    return NULL;
}

static inline int sbnn_pool_threads(const struct sbnn_pool *pool)
{
    return (int)pool->started + 1;
}

/* Wakes the threads before they have tasks. */
static inline void sbnn_pool_awake(struct sbnn_pool *pool)
{
    if (pool != NULL && atomic_load_explicit(&pool->sleepers, memory_order_relaxed) != 0)
        sbnn_wake(pool, &pool->open, (int)SBNN_MOST_THREADS);
}

static int sbnn_pool_run(struct sbnn_pool *pool, sbnn_task task, void *data, int tasks, unsigned char *memory)
{
    uint32_t unfinished;
    int spins;
    pool->task = task;
    pool->data = data;
    pool->group.num_task = tasks;
    atomic_store_explicit(&pool->unfinished, (uint32_t)tasks, memory_order_relaxed);
    atomic_store(&pool->open, (uint32_t)tasks);
    if (atomic_load(&pool->sleepers) != 0)
        sbnn_wake(pool, &pool->open, tasks - 1);
    sbnn_share(pool, memory);
    for (spins = 0; atomic_load_explicit(&pool->unfinished, memory_order_acquire) != 0; spins++) {
        if (spins < SBNN_SPINS) {
            sbnn_relax();
            continue;
        }
        atomic_store(&pool->waiting, 1);
        while ((unfinished = atomic_load(&pool->unfinished)) != 0)
            sbnn_sleep(pool, &pool->unfinished, unfinished);
        atomic_store(&pool->waiting, 0);
    }
    return atomic_exchange_explicit(&pool->failed, 0, memory_order_relaxed) ? -1 : 0;
}

/* Ends the threads, and waits for their end. */
static void sbnn_pool_close(struct sbnn_pool *pool)
{
    size_t index;
    if (pool == NULL)
        return;
    if (getpid() != pool->process) /* a forked child has none of them */
        return;
    atomic_store(&pool->open, SBNN_QUIT);
    sbnn_wake(pool, &pool->open, (int)SBNN_MOST_THREADS);
    for (index = 0; index < pool->started; index++)
        pthread_join(pool->workers[index].thread, NULL);
#if !defined(__linux__)
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->mutex);
#endif
}

/* The memory of a pool with the workspaces of all its threads, the caller's not included. */
static size_t sbnn_pool_bytes(size_t threads, size_t task_bytes)
{
    if (threads < 2)
        return 0;
    return sbnn_aligned(sizeof(struct sbnn_pool)) + sbnn_aligned((threads - 1) * sizeof(struct sbnn_worker)) +
           (threads - 1) * sbnn_aligned(task_bytes);
}

static int sbnn_has_threads(void)
{
#if defined(SBNN_WEAK)
    if (&pthread_create == NULL || &pthread_join == NULL || &pthread_sigmask == NULL || &sigfillset == NULL ||
        &getpid == NULL)
        return 0;
#if defined(__linux__)
    if (&syscall == NULL)
        return 0;
#endif
#endif
    return 1;
}

/* Starts the threads of a pool in memory of sbnn_pool_bytes; NULL if that is not possible. */
static struct sbnn_pool *sbnn_pool_start(unsigned char *memory, size_t threads, size_t task_bytes)
{
    struct sbnn_pool *pool = (struct sbnn_pool *)memory;
    sigset_t all, before;
    size_t index;
    if (!sbnn_has_threads())
        return NULL;
    memset(pool, 0, sizeof *pool);
    pool->task_bytes = task_bytes;
    pool->process = getpid();
#if !defined(__linux__)
    if (pthread_mutex_init(&pool->mutex, NULL) != 0)
        return NULL;
    if (pthread_cond_init(&pool->changed, NULL) != 0) {
        pthread_mutex_destroy(&pool->mutex);
        return NULL;
    }
#endif
    memory += sbnn_aligned(sizeof *pool);
    pool->workers = (struct sbnn_worker *)memory;
    memory += sbnn_aligned((threads - 1) * sizeof(struct sbnn_worker));
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (index = 0; index < threads - 1; index++, pool->started++) {
        struct sbnn_worker *worker = &pool->workers[index];
        worker->pool = pool;
        worker->memory = memory + index * sbnn_aligned(task_bytes);
        if (pthread_create(&worker->thread, NULL, sbnn_work, worker) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (pool->started == threads - 1)
        return pool;
    sbnn_pool_close(pool);
    return NULL;
}

#else

static inline int sbnn_pool_threads(const struct sbnn_pool *pool)
{
    (void)pool;
    return 1;
}

static inline void sbnn_pool_awake(struct sbnn_pool *pool)
{
    (void)pool;
}

static int sbnn_pool_run(struct sbnn_pool *pool, sbnn_task task, void *data, int tasks, unsigned char *memory)
{
    (void)pool, (void)task, (void)data, (void)tasks, (void)memory;
    return -1;
}

static void sbnn_pool_close(struct sbnn_pool *pool)
{
    (void)pool;
}

static size_t sbnn_pool_bytes(size_t threads, size_t task_bytes)
{
    (void)threads, (void)task_bytes;
    return 0;
}

static struct sbnn_pool *sbnn_pool_start(unsigned char *memory, size_t threads, size_t task_bytes)
{
    (void)memory, (void)threads, (void)task_bytes;
    return NULL;
}

#endif
