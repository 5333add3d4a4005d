// Threads of a CUDA block as fibers of one host thread: what the emulated primitives are made of. Who runs them is in
// fibers_run.hpp.
//
// A block's threads run one at a time, each until it waits; blocks run one after the other. What a thread waits
// for is a condition that the scheduler asks before it switches, so that a waiting thread costs a call, not a
// switch. Nothing here is parallel: what it shows is the order of things (barriers, arrivals, who writes what),
// and not races of memory within one stretch between two waits.
#pragma once
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>
#include <sys/mman.h>
#if !defined(__x86_64__) || defined(MOESIM_UCONTEXT)
#include <ucontext.h>
#define MOESIM_PORTABLE_SWITCH 1
#endif

// Shared variables of kernels lie in one section, so that all of them can be poisoned before a block.
#define MOESIM_SHARED static __attribute__((section("emu_shared"), used))
extern "C" __attribute__((visibility("hidden"))) unsigned char __start_emu_shared[], __stop_emu_shared[];

namespace emu {

constexpr unsigned max_threads = 1024, idle_passes = 10000, max_meetings = 64;
constexpr size_t stack_bytes = 128 << 10, guard_bytes = 64 << 10, max_dynamic_shared = 256 << 10;
constexpr unsigned static_window = 0x1000000;
constexpr unsigned char poison = 0xFF;

MOESIM_SHARED uint64_t section_exists = 0;

using States = std::vector<std::shared_ptr<void>>;

struct Thread {
    unsigned id = 0, lane = 0, warp = 0;
    bool done = false, yielded = false;
    const char* what = nullptr;             // shown if it waits for ever
    bool (*ready)(const void*) = nullptr;   // null: runnable
    const void* condition = nullptr;
    unsigned char* stack = nullptr;
    States states;
#ifdef MOESIM_PORTABLE_SWITCH
    ucontext_t context;
#else
    void* sp = nullptr;
#endif
};

struct Barrier {
    unsigned expected = 0, arrived = 0, generation = 0;
};

// Lanes of a warp that exchange values: two sets of slots, for a lane may be one exchange ahead of another.
struct Meeting {
    unsigned mask = 0, arrived = 0, generation = 0;
    const char* what = nullptr;  // the same for all of them
    alignas(64) unsigned char slots[2][32][64];
};

struct Group {
    unsigned first, count;
    Barrier barrier;
};

struct Action {
    virtual void run() = 0;
    virtual ~Action() = default;
};
template <class F>
struct ActionOf final : Action {
    F function;
    explicit ActionOf(F f) : function(std::move(f)) {}
    void run() override { function(); }
};

struct Deferred {
    unsigned due;
    std::unique_ptr<Action> action;
};

struct Block {
    unsigned index = 0, threads = 0, grid = 0, exited = 0;
    unsigned char* shared = nullptr;
    size_t shared_bytes = 0;
    Barrier all, named[16];
    std::vector<Group> groups;
    std::vector<std::vector<std::unique_ptr<Meeting>>> meetings;  // by warp
    std::vector<Deferred> deferred;
    States states;
    unsigned pass = 0;
};

struct Failure {};  // a failed check in the scheduler, where conditions and deferred actions run

struct Kernel {
    const char* name;
    void (*call)(void** args);
};

static Thread threads[max_threads];
static Block current_block;
static Thread* running = nullptr;
static const Kernel* kernel = nullptr;
static void** arguments = nullptr;
static bool in_fiber = false, failed = false;
static std::string message;
static unsigned order_seed = 0;
static unsigned state_kinds = 0;

static inline Thread& self() { return *running; }
static inline Block& block() { return current_block; }

// --- switching ------------------------------------------------------------------------------------------------
static void finish();

static void enter() {
    kernel->call(arguments);
    finish();
}

#ifdef MOESIM_PORTABLE_SWITCH
static ucontext_t scheduler;
static void make_fiber(Thread& t) {
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack;
    t.context.uc_stack.ss_size = stack_bytes;
    t.context.uc_link = nullptr;
    makecontext(&t.context, enter, 0);
}
static void resume(Thread& t) { swapcontext(&scheduler, &t.context); }
static void suspend() { swapcontext(&running->context, &scheduler); }
#else
extern "C" void moesim_switch(void** save, void* load) __attribute__((visibility("hidden")));
asm(R"(
    .text
    .p2align 4
    .globl moesim_switch
    .hidden moesim_switch
    .type moesim_switch,@function
moesim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmpq *%rcx
    .size moesim_switch,.-moesim_switch
)");
static void* scheduler;
static void make_fiber(Thread& t) {
    // Stacks start at different offsets of a page, or all of them would fight for the same lines of the cache.
    void** top = reinterpret_cast<void**>(t.stack + stack_bytes - t.id % 64 * 320);
    *--top = nullptr;  // where enter() would return to; keeps the stack aligned as after a call
    *--top = reinterpret_cast<void*>(&enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    t.sp = top;
}
static inline void resume(Thread& t) { moesim_switch(&scheduler, t.sp); }
static inline void suspend() { moesim_switch(&running->sp, scheduler); }
#endif

static void finish() {
    running->done = true;
    suspend();
    __builtin_unreachable();
}

// --- waiting --------------------------------------------------------------------------------------------------
template <class Ready>
static inline void wait_until(Ready ready, const char* what) {
    if (ready()) return;
    Thread& t = *running;
    t.what = what;
    t.condition = &ready;
    t.ready = [](const void* p) -> bool { return (*static_cast<const Ready*>(p))(); };
    suspend();
    t.ready = nullptr;
}

static inline void yield() {
    running->what = "its turn";
    running->yielded = true;
    suspend();
}

template <class F>
static void defer(unsigned passes, F function) {
    current_block.deferred.push_back(
        {current_block.pass + passes, std::unique_ptr<Action>(new ActionOf<F>(std::move(function)))});
}

[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
    char text[512];
    va_list rest;
    va_start(rest, format);
    vsnprintf(text, sizeof text, format, rest);
    va_end(rest);
    char head[256];
    snprintf(head, sizeof head, "%s, block %u, thread %u: ", kernel->name, current_block.index,
             running ? running->id : 0u);
    message = std::string(head) + text;
    failed = true;
    if (!in_fiber) throw Failure{};
    suspend();
    __builtin_unreachable();
}

// --- meeting --------------------------------------------------------------------------------------------------
static inline void release(Barrier& b) {
    b.arrived = 0;
    ++b.generation;
}

// Threads that have ended count as arrived, as on the device.
static inline void release_all_if_complete() {
    Block& b = current_block;
    if (b.all.arrived && b.all.arrived + b.exited >= b.threads) release(b.all);
}

static inline void sync_all() {
    Barrier& b = current_block.all;
    const unsigned generation = b.generation;
    ++b.arrived;
    release_all_if_complete();
    wait_until([&b, generation] { return b.generation != generation; }, "__syncthreads");
}

static inline bool arrive(Barrier& b, unsigned expected, unsigned id) {
    if (b.arrived && b.expected != expected)
        fail("barrier %u is used with %u and with %u threads at once", id, b.expected, expected);
    b.expected = expected;
    if (++b.arrived < expected) return false;
    release(b);
    return true;
}

static inline Barrier& named(unsigned id, unsigned expected) {
    if (id > 15) fail("barrier %u: there are 16", id);
    if (!expected || expected % 32) fail("barrier %u: %u threads are not whole warps", id, expected);
    return current_block.named[id];
}

static inline void barrier_arrive(unsigned id, unsigned expected) { arrive(named(id, expected), expected, id); }

static inline void barrier_sync(unsigned id, unsigned expected) {
    static const char* const names[16] = {
        "barrier 0", "barrier 1", "barrier 2", "barrier 3", "barrier 4", "barrier 5", "barrier 6", "barrier 7",
        "barrier 8", "barrier 9", "barrier 10", "barrier 11", "barrier 12", "barrier 13", "barrier 14", "barrier 15"};
    Barrier& b = named(id, expected);
    const unsigned generation = b.generation;
    if (arrive(b, expected, id)) return;
    wait_until([&b, generation] { return b.generation != generation; }, names[id]);
}

// The threads first .. first + count - 1 meet.
static inline void meet(unsigned first, unsigned count, const char* what) {
    Block& block = current_block;
    if (running->id - first >= count) fail("%s: not one of the threads %u..%u", what, first, first + count - 1);
    unsigned index = 0;
    while (index < block.groups.size() && (block.groups[index].first != first || block.groups[index].count != count))
        ++index;
    if (index == block.groups.size()) {
        if (index == max_meetings) fail("%s: more than %u groups of threads meet", what, max_meetings);
        block.groups.push_back({first, count, {}});
    }
    Barrier& b = block.groups[index].barrier;  // room is reserved: it stays where it is
    const unsigned generation = b.generation;
    if (++b.arrived == count) return release(b);
    wait_until([&b, generation] { return b.generation != generation; }, what);
}

// All lanes of `mask` give a value and get all values, by lane; good until the warp's next but one exchange.
template <class T>
__attribute__((noinline)) static const T* gather(unsigned mask, const T& mine, const char* what) {
    static_assert(sizeof(T) <= 64 && std::is_trivially_copyable<T>::value, "exchanged values are small and plain");
    Thread& t = *running;
    if (!(mask >> t.lane & 1)) fail("%s: lane %u is not in its own mask %08x", what, t.lane, mask);
    auto& known = current_block.meetings[t.warp];
    Meeting* m = nullptr;
    for (auto& each : known)
        if (each->mask == mask) m = each.get();
    if (!m) {
        known.emplace_back(new Meeting);
        m = known.back().get();
        m->mask = mask;
    }
    if (!m->arrived)
        m->what = what;
    else if (m->what != what && std::strcmp(m->what, what))
        fail("%s: other lanes of the warp are in %s", what, m->what);
    auto* slots = m->slots[m->generation & 1];
    // A slot is as wide as the value, so that the values of all lanes are an array.
    unsigned char* at = &slots[0][0] + t.lane * sizeof(T);
    std::memcpy(at, &mine, sizeof(T));
    m->arrived |= 1u << t.lane;
    if (m->arrived == mask) {
        m->arrived = 0;
        ++m->generation;
    } else {
        const unsigned generation = m->generation;
        wait_until([m, generation] { return m->generation != generation; }, what);
    }
    return reinterpret_cast<const T*>(&slots[0][0]);
}

// --- state of primitives --------------------------------------------------------------------------------------
template <class T>
static inline T* state_in(States& states) {
    static const unsigned kind = state_kinds++;
    if (states.size() <= kind) states.resize(kind + 1);
    if (!states[kind]) states[kind] = std::make_shared<T>();
    return static_cast<T*>(states[kind].get());
}
template <class T>
static inline T* block_state() { return state_in<T>(current_block.states); }
template <class T>
static inline T* thread_state() { return state_in<T>(running->states); }

// --- shared memory --------------------------------------------------------------------------------------------
static inline unsigned shared_address(const void* pointer) {
    const auto at = reinterpret_cast<uintptr_t>(pointer);
    const auto dynamic = reinterpret_cast<uintptr_t>(current_block.shared);
    const auto fixed = reinterpret_cast<uintptr_t>(__start_emu_shared);
    if (at - dynamic < current_block.shared_bytes) return static_cast<unsigned>(at - dynamic);
    if (at - fixed < static_cast<uintptr_t>(__stop_emu_shared - __start_emu_shared))
        return static_window + static_cast<unsigned>(at - fixed);
    fail("%p is not in shared memory (%zu bytes were asked for)", pointer, current_block.shared_bytes);
}

static inline unsigned char* shared_pointer(unsigned address) {
    if (address < current_block.shared_bytes) return current_block.shared + address;
    const size_t offset = address - static_window;
    if (address >= static_window && offset < static_cast<size_t>(__stop_emu_shared - __start_emu_shared))
        return __start_emu_shared + offset;
    fail("address 0x%x is not in shared memory (%zu bytes were asked for)", address, current_block.shared_bytes);
}

}  // namespace emu
