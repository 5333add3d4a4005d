// The scheduler of the fibers, and the doors of the shared object that emulate.py builds.
#pragma once
#include "fibers.hpp"
#include <csetjmp>
#include <csignal>

namespace emu {

static uint32_t random_state;

static void order_threads(unsigned* order, unsigned count) {
    if (order_seed < 2) return;
    for (unsigned i = count; i > 1; --i) {
        random_state = random_state * 1664525u + 1013904223u;
        std::swap(order[i - 1], order[static_cast<uint64_t>(random_state) * i >> 32]);
    }
}

static void describe_deadlock() {
    message = std::string(kernel->name) + ", block " + std::to_string(current_block.index) + ": deadlock;";
    const char* last = nullptr;
    unsigned first = 0, previous = 0;
    const auto flush = [&] {
        if (!last) return;
        message += " threads " + std::to_string(first) + ".." + std::to_string(previous) + " wait for " + last + ";";
    };
    for (unsigned i = 0; i < current_block.threads; ++i) {
        const char* what = threads[i].done ? nullptr : threads[i].what;
        if (what != last) {
            flush();
            last = what;
            first = i;
        }
        previous = i;
    }
    flush();
    message += " " + std::to_string(current_block.exited) + " have ended";
}

static bool run_deferred() {
    Block& b = current_block;
    bool any = false;
    for (size_t i = 0; i < b.deferred.size();) {
        if (b.deferred[i].due > b.pass) {
            ++i;
            continue;
        }
        auto action = std::move(b.deferred[i].action);
        b.deferred.erase(b.deferred.begin() + static_cast<long>(i));
        action->run();
        any = true;
    }
    return any || !b.deferred.empty();
}

static int run_block() {
    static unsigned order[max_threads];
    Block& b = current_block;
    std::memset(__start_emu_shared, poison, static_cast<size_t>(__stop_emu_shared - __start_emu_shared));
    std::memset(b.shared, poison, b.shared_bytes);
    b.exited = b.pass = 0;
    b.all = {};
    for (auto& each : b.named) each = {};
    b.groups.clear();
    b.groups.reserve(max_meetings);
    b.meetings.resize((b.threads + 31) / 32);
    for (auto& warp : b.meetings)
        for (auto& each : warp) each->arrived = each->generation = 0;
    b.deferred.clear();
    b.states.clear();
    for (unsigned i = 0; i < b.threads; ++i) {
        Thread& t = threads[i];
        t.id = i, t.lane = i % 32, t.warp = i / 32;
        t.done = t.yielded = false;
        t.ready = nullptr;
        t.states.clear();
        make_fiber(t);
        order[i] = order_seed == 1 ? b.threads - 1 - i : i;
    }
    for (unsigned idle = 0; b.exited < b.threads; ++b.pass) {
        bool progress = run_deferred();
        order_threads(order, b.threads);
        for (unsigned turn = 0; turn < b.threads; ++turn) {
            Thread& t = threads[order[turn]];
            running = &t;
            if (t.done || (t.ready && !t.ready(t.condition))) continue;
            const bool yielded = t.yielded;
            t.yielded = false;
            in_fiber = true;
            resume(t);
            in_fiber = false;
            if (failed) return 2;
            if (!(yielded && t.yielded)) progress = true;
            if (t.done) {
                ++b.exited;
                release_all_if_complete();
            }
        }
        idle = progress ? 0 : idle + 1;
        if (idle > idle_passes) {
            describe_deadlock();
            return 1;
        }
    }
    return 0;
}

// Stacks grow down, to a gap that cannot be touched.
static bool reserve(unsigned count) {
    for (unsigned i = 0; i < count; ++i) {
        if (threads[i].stack) continue;
        void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return false;
        threads[i].stack = static_cast<unsigned char*>(memory) + guard_bytes;
        if (mprotect(threads[i].stack, stack_bytes, PROT_READ | PROT_WRITE)) return false;
    }
    return true;
}

// While a kernel runs, an access to memory that is not there ends the launch, and not the process.
static sigjmp_buf escape;

static void on_bad_access(int, siginfo_t* what, void*) {
    const auto at = reinterpret_cast<uintptr_t>(what->si_addr);
    char text[256];
    const bool deep = running && at - reinterpret_cast<uintptr_t>(running->stack - guard_bytes) < guard_bytes;
    snprintf(text, sizeof text, deep ? "%s, block %u, thread %u: its stack overflows"
                                     : "%s, block %u, thread %u: no memory of the kernel's at %p",
             kernel->name, current_block.index, running ? running->id : 0u, what->si_addr);
    message = text;
    siglongjmp(escape, 1);
}

struct Watch {
    struct sigaction segmentation, bus;
    stack_t stack;
    Watch() {
        alignas(16) static unsigned char room[64 << 10];
        stack_t own{};
        own.ss_sp = room;
        own.ss_size = sizeof room;
        sigaltstack(&own, &stack);
        struct sigaction action{};
        action.sa_sigaction = on_bad_access;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &segmentation);
        sigaction(SIGBUS, &action, &bus);
    }
    ~Watch() {
        sigaction(SIGSEGV, &segmentation, nullptr);
        sigaction(SIGBUS, &bus, nullptr);
        sigaltstack(&stack, nullptr);
    }
};

static int run_grid() {
    if (sigsetjmp(escape, 1)) return 2;
    try {
        for (current_block.index = 0; current_block.index < current_block.grid; ++current_block.index)
            if (const int code = run_block()) return code;
    } catch (const Failure&) {
        return 2;
    }
    return 0;
}

static int launch(const Kernel& which, unsigned grid, unsigned count, unsigned smem, void** args) {
    alignas(1024) static unsigned char dynamic_shared[max_dynamic_shared];
    kernel = &which;
    arguments = args;
    failed = in_fiber = false;
    message.clear();
    if (!grid || !count || count > max_threads || smem > max_dynamic_shared || !reserve(count)) {
        message = std::string(which.name) + ": a launch of " + std::to_string(grid) + " blocks of " +
                  std::to_string(count) + " threads with " + std::to_string(smem) + " bytes cannot be made";
        return 2;
    }
    Block& b = current_block;
    b.grid = grid, b.threads = count, b.shared = dynamic_shared, b.shared_bytes = smem;
    random_state = order_seed;
    const Watch watch;
    return run_grid();
}

template <class... A, size_t... I>
static void call(void (*function)(A...), void** args, std::index_sequence<I...>) {
    function(*static_cast<std::remove_cv_t<A>*>(args[I])...);
}
template <class... A>
static void call(void (*function)(A...), void** args) {
    call(function, args, std::index_sequence_for<A...>{});
}

}  // namespace emu

// The table of kernels and the doors of the shared object; emulate.py appends MOESIM_KERNELS(one)(two)...
#define MOESIM_KERNEL(name) {#name, [](void** args) { emu::call(&name, args); }},
#define MOESIM_DOORS(entries)                                                                                     \
    static const emu::Kernel moesim_kernels[] = {entries{nullptr, nullptr}};                                      \
    extern "C" __attribute__((visibility("default"))) int emulate(const char* name, unsigned grid,                \
                                                                  unsigned threads, unsigned smem, void** args) { \
        for (const emu::Kernel* k = moesim_kernels; k->name; ++k)                                                 \
            if (!std::strcmp(k->name, name)) return emu::launch(*k, grid, threads, smem, args);                   \
        emu::message = std::string("no kernel is called ") + name;                                                \
        return 3;                                                                                                 \
    }                                                                                                             \
    extern "C" __attribute__((visibility("default"))) const char* emulate_error() { return emu::message.c_str(); } \
    extern "C" __attribute__((visibility("default"))) void emulate_order(unsigned seed) { emu::order_seed = seed; }
