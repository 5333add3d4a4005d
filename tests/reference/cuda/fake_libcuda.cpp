// A libcuda.so.1 for tests, without a GPU: the functions that moesim calls, with the driver's own types.
//
// Device memory is the host's. A module's image is the path of a shared object of emulated kernels. Work is done as
// it comes, except between cuStreamBeginCapture and cuStreamEndCapture, where it is kept. What a real driver
// refuses is refused: unknown handles, copies past a block's end, tensor maps out of bounds, work on a lost context.
#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) int
namespace {
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_HANDLE = 400,
       NOT_FOUND = 500, LAUNCH_FAILED = 719, CAPTURE_UNSUPPORTED = 900 };
typedef std::vector<std::function<void()>> Work;
struct Stream { bool capturing = false; Work work; };
struct Event { bool recorded = false; double at = 0; };
struct Module { void* library; int (*emulate)(const char*, unsigned, unsigned, unsigned, void**); };
struct Function { Module* module; std::string name; int shared = 48 * 1024; };
std::map<uint64_t, size_t> memory;
std::map<uint64_t, size_t> pinned;
std::set<void*> handles;
size_t used = 0;
int sticky = OK;
double now = 0;
const char* option(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value ? value : otherwise;
}
size_t total() { return strtoull(option("FAKE_CUDA_MEMORY", "1073741824"), nullptr, 10); }
bool inside(uint64_t address, size_t bytes) {
    auto block = memory.upper_bound(address);
    if (block == memory.begin()) return false;
    --block;
    return address + bytes <= block->first + block->second;
}
bool known(void* handle) { return handles.count(handle) != 0; }
template <class T> T* keep(T* made) { handles.insert(made); return made; }
int put(Stream* stream, std::function<void()> action) {
    if (sticky) return sticky;
    if (!known(stream)) return INVALID_HANDLE;
    if (stream->capturing) stream->work.push_back(action); else action();
    return OK;
}
struct Graph { Work work; };
}  // namespace

API cuInit(unsigned) { return atoi(option("FAKE_CUDA_DEVICES", "1")) ? OK : NO_DEVICE; }
API cuDriverGetVersion(int* version) { *version = 13000; return OK; }
API cuDeviceGetCount(int* count) { *count = atoi(option("FAKE_CUDA_DEVICES", "1")); return OK; }
API cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal == 0 ? OK : INVALID_DEVICE; }
API cuDeviceGetName(char* name, int length, int) { snprintf(name, length, "Fake GPU"); return OK; }
API cuDeviceGetAttribute(int* value, int kind, int) {
    int major = 9, minor = 0;
    sscanf(option("FAKE_CUDA_CAPABILITY", "9.0"), "%d.%d", &major, &minor);
    switch (kind) {
        case 75: *value = major; return OK;
        case 76: *value = minor; return OK;
        case 16: *value = 3; return OK;          // multiprocessors
        case 38: *value = 1024; return OK;       // second-level cache
        case 97: *value = atoi(option("FAKE_CUDA_SHARED", "232448")); return OK;
        default: *value = 1; return OK;
    }
}
API cuGetErrorString(int code, const char** text) {
    *text = code == LAUNCH_FAILED ? "unspecified launch failure" : code == NO_DEVICE ? "no CUDA-capable device is detected" : "it failed";
    return OK;
}
API cuGetErrorName(int, const char** text) { *text = "CUDA_ERROR"; return OK; }
API cuDevicePrimaryCtxRetain(void** context, int) { static int one; *context = keep(&one); return OK; }
API cuDevicePrimaryCtxRelease(int) { return OK; }
API cuCtxSetCurrent(void* context) { return known(context) ? OK : INVALID_VALUE; }
API cuCtxSynchronize() { return sticky; }
API cuMemGetInfo(size_t* free_bytes, size_t* all) {
    if (sticky) return sticky;
    *all = total(), *free_bytes = total() - used;
    return OK;
}
API cuMemAlloc(uint64_t* address, size_t bytes) {
    if (sticky) return sticky;
    if (!bytes) return INVALID_VALUE;
    if (used + bytes > total()) return OUT_OF_MEMORY;
    void* block = aligned_alloc(512, (bytes + 511) / 512 * 512);
    memset(block, 0xFF, bytes);
    *address = (uint64_t)block, memory[*address] = bytes, used += bytes;
    return OK;
}
API cuMemFree(uint64_t address) {
    if (sticky) return sticky;
    if (!memory.count(address)) return INVALID_VALUE;
    used -= memory[address], memory.erase(address), free((void*)address);
    return OK;
}
API cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    if (sticky) return sticky;
    *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    pinned[(uint64_t)*p] = bytes;
    return OK;
}
API cuMemFreeHost(void* p) {
    if (!pinned.erase((uint64_t)p)) return INVALID_VALUE;
    free(p);
    return OK;
}
static int copy(void* to, const void* from, size_t bytes, Stream* stream) {
    return put(stream, [=] { memcpy(to, from, bytes); });
}
API cuMemcpyHtoDAsync(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    return inside(to, bytes) ? copy((void*)to, from, bytes, stream) : INVALID_VALUE;
}
API cuMemcpyDtoHAsync(void* to, uint64_t from, size_t bytes, Stream* stream) {
    return inside(from, bytes) ? copy(to, (void*)from, bytes, stream) : INVALID_VALUE;
}
API cuMemcpyDtoDAsync(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
    return inside(from, bytes) && inside(to, bytes) ? copy((void*)to, (void*)from, bytes, stream) : INVALID_VALUE;
}
API cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, Stream* stream) {
    return inside(to, bytes) ? put(stream, [=] { memset((void*)to, byte, bytes); }) : INVALID_VALUE;
}
API cuStreamCreate(Stream** stream, unsigned flags) {
    if (flags != 1) return INVALID_VALUE;  // a stream that waits for the default one is not wanted
    *stream = keep(new Stream);
    return OK;
}
API cuStreamDestroy(Stream* stream) { return handles.erase(stream) ? OK : INVALID_HANDLE; }
API cuStreamSynchronize(Stream* stream) { return sticky ? sticky : known(stream) ? OK : INVALID_HANDLE; }
API cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    return known(event) ? put(stream, [] {}) : INVALID_HANDLE;
}
API cuEventCreate(Event** event, unsigned) { *event = keep(new Event); return OK; }
API cuEventDestroy(Event* event) { return handles.erase(event) ? OK : INVALID_HANDLE; }
API cuEventRecordWithFlags(Event* event, Stream* stream, unsigned flags) {
    if (!known(event)) return INVALID_HANDLE;
    if (flags == 0 && stream->capturing) return put(stream, [] {});  // orders a capture; has no time
    if (flags == 1 && !stream->capturing) return INVALID_VALUE;
    return put(stream, [=] { event->recorded = true, event->at = now += 1e-3; });
}
API cuEventSynchronize(Event* event) { return sticky ? sticky : known(event) ? OK : INVALID_HANDLE; }
API cuEventElapsedTime(float* ms, Event* start, Event* end) {
    if (sticky) return sticky;
    if (!known(start) || !known(end) || !start->recorded || !end->recorded) return INVALID_HANDLE;
    *ms = (float)(end->at - start->at);
    return OK;
}
API cuModuleLoadData(Module** module, const void* image) {
    if (sticky) return sticky;
    void* library = dlopen((const char*)image, RTLD_NOW | RTLD_LOCAL);
    if (!library) return INVALID_VALUE;
    *module = keep(new Module{library, (decltype(Module::emulate))dlsym(library, "emulate")});
    return OK;
}
API cuModuleUnload(Module* module) { return handles.erase(module) ? OK : INVALID_HANDLE; }
API cuModuleGetFunction(Function** function, Module* module, const char* name) {
    if (!known(module)) return INVALID_HANDLE;
    *function = keep(new Function{module, name});
    return OK;
}
API cuFuncSetAttribute(Function* function, int kind, int value) {
    if (!known(function) || kind != 8) return INVALID_VALUE;  // dynamic shared memory
    function->shared = value;
    return OK;
}
API cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, Stream* stream, void** params, void** extra) {
    if (!known(function) || gy != 1 || gz != 1 || by != 1 || bz != 1 || !gx || !bx || bx > 1024 || extra ||
        (int)shared > function->shared)
        return INVALID_VALUE;
    return put(stream, [=] {
        if (function->name == option("FAKE_CUDA_FAILS", "") || function->module->emulate(function->name.c_str(), gx, bx, shared, params))
            sticky = LAUNCH_FAILED;
    });
}
API cuStreamBeginCapture(Stream* stream, int mode) {
    if (!known(stream) || stream->capturing || mode < 0 || mode > 2) return INVALID_VALUE;
    stream->capturing = true;
    return OK;
}
API cuStreamEndCapture(Stream* stream, Graph** graph) {
    if (!known(stream) || !stream->capturing) return CAPTURE_UNSUPPORTED;
    stream->capturing = false;
    *graph = keep(new Graph{stream->work});
    stream->work.clear();
    return OK;
}
API cuGraphInstantiateWithFlags(Graph** ready, Graph* graph, unsigned long long flags) {
    if (!known(graph) || flags) return INVALID_VALUE;
    *ready = keep(new Graph{graph->work});
    return OK;
}
API cuGraphLaunch(Graph* ready, Stream* stream) {
    if (!known(ready)) return INVALID_HANDLE;
    return put(stream, [=] { for (auto& step : ready->work) step(); });
}
API cuGraphDestroy(Graph* graph) { return handles.erase(graph) ? OK : INVALID_HANDLE; }
API cuGraphExecDestroy(Graph* ready) { return handles.erase(ready) ? OK : INVALID_HANDLE; }
API cuTensorMapEncodeTiled(uint64_t* map, int type, unsigned rank, void* address, const uint64_t* dims,
                           const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave,
                           int swizzle, int promotion, int fill) {
    if ((uint64_t)map % 64 || type != 9 || rank != 2 || (uint64_t)address % 16 || !dims[0] || !dims[1] ||
        dims[0] > (1ull << 32) || dims[1] > (1ull << 32) || strides[0] % 16 || strides[0] >> 40 || !box[0] || !box[1] ||
        box[0] > 256 || box[1] > 256 || steps[0] != 1 || steps[1] != 1 || interleave || swizzle != 3 || promotion != 3 ||
        fill || box[0] * 2 > 128 || !inside((uint64_t)address, dims[1] * strides[0]))
        return INVALID_VALUE;
    typedef void (*Encode)(void*, void*, uint64_t, uint64_t, uint64_t, uint32_t, uint32_t, uint32_t);
    void* library = dlopen(option("FAKE_CUDA_TILES", ""), RTLD_NOW | RTLD_LOCAL);
    Encode encode = library ? (Encode)dlsym(library, "encode_tensor_map") : nullptr;
    if (!encode) return NOT_FOUND;
    memset(map, 0, 128);
    encode(map, address, dims[0], dims[1], strides[0], box[0], box[1], swizzle);
    return OK;
}
API cuGetProcAddress_v2(const char* name, void** function, int, uint64_t, int* status) {
    Dl_info self;
    dladdr((void*)&cuInit, &self);
    void* library = dlopen(self.dli_fname, RTLD_NOW | RTLD_LOCAL);
    *function = !strcmp(name, "cuGetProcAddress") ? (void*)&cuGetProcAddress_v2 : dlsym(library, name);
    if (status) *status = *function ? 0 : 1;
    return *function ? OK : NOT_FOUND;
}
API fake_blocks() { return (int)memory.size(); }
API fake_handles() { return (int)handles.size(); }
