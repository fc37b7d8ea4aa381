/* Two operators of the domain "shardrank" for ONNX Runtime's CUDA provider, over the kernels of
 * cuda_kernels.cu, whose machine code is in this library (CUBIN names the file).
 *
 *   SiluProduct(gate, up) -> product
 *   NormRotary(query, key, query_weight, key_weight, cosines, sines; epsilon) -> query, key
 *
 * Query and key are [batch, width, heads x size]; a token's position is its column. Needs no header
 * of CUDA: functions of its driver are taken by their name.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>

#include "runtime.h"

__asm__(
    ".section .rodata\n.balign 64\n.hidden kernel_code\n.global kernel_code\nkernel_code:\n"
    ".incbin \"" CUBIN "\"\n.byte 0\n.section .note.GNU-stack,\"\",@progbits\n.text\n");
extern const char kernel_code[];

/* ---- CUDA: what is used of its driver ---- */
enum { BLOCK = 256, GROUP = 16, MAX_CONTEXTS = 16 };
enum { SILU_PRODUCT, NORM_ROTARY, NUM_KERNELS };
typedef int (*Launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                      void*, void**, void**);
static struct {
  void* context;
  void* functions[2][NUM_KERNELS]; /* of bfloat16, of float16 */
} loaded[MAX_CONTEXTS];
static int num_loaded;
static Launch launch;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

typedef struct {
  Api api;
  int kernel;
  int is_float16;
  float epsilon;
} Kernel;

/* The kernels in the CUDA context of this thread; loaded when they are first asked for. */
static const char* load(int* code, int* place) {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) return "the NVIDIA driver cannot be loaded";
  int (*current)(void**) = (int (*)(void**))dlsym(driver, "cuCtxGetCurrent");
  int (*load_module)(void**, const void*) =
      (int (*)(void**, const void*))dlsym(driver, "cuModuleLoadData");
  int (*find)(void**, void*, const char*) =
      (int (*)(void**, void*, const char*))dlsym(driver, "cuModuleGetFunction");
  launch = (Launch)dlsym(driver, "cuLaunchKernel");
  if (!current || !load_module || !find || !launch) return "the NVIDIA driver is too old";
  void* context = NULL;
  if ((*code = current(&context)) || !context) return "no CUDA context";
  for (*place = 0; *place < num_loaded; ++*place)
    if (loaded[*place].context == context) return NULL;
  if (num_loaded == MAX_CONTEXTS) return "too many CUDA contexts";
  static const char* const names[2][NUM_KERNELS] = {
      {"silu_product_bf16", "norm_rotary_bf16"}, {"silu_product_fp16", "norm_rotary_fp16"}};
  void* module = NULL;
  if ((*code = load_module(&module, kernel_code))) return "the kernels do not fit the GPU";
  for (int half = 0; half < 2; half++)
    for (int kernel = 0; kernel < NUM_KERNELS; kernel++)
      if ((*code = find(&loaded[num_loaded].functions[half][kernel], module, names[half][kernel])))
        return "a kernel is missing";
  loaded[num_loaded++].context = context;
  return NULL;
}

static Status start(Kernel* kernel, void* context, int64_t num_threads, void** arguments) {
  Api api = kernel->api;
  int code = 0, place = 0;
  pthread_mutex_lock(&lock);
  const char* problem = load(&code, &place);
  pthread_mutex_unlock(&lock);
  if (problem) return fail(api, problem, code);
  void* stream = NULL;
  Status status = CALL(api, STREAM, Status, void*, void**)(context, &stream);
  if (status || !num_threads) return status;
  int64_t num_blocks = (num_threads + BLOCK - 1) / BLOCK;
  if (num_blocks > INT_MAX) return fail(api, "a batch is too large for one launch", 0);
  void* function = loaded[place].functions[kernel->is_float16][kernel->kernel];
  code = launch(function, (unsigned)num_blocks, 1, 1, BLOCK, 1, 1, 0, stream, arguments, NULL);
  return code ? fail(api, "a kernel could not be launched", code) : NULL;
}

static Status silu_product(Kernel* kernel, void* context) {
  Tensor gate, up;
  void* product = NULL;
  Status status = read_input(kernel->api, context, 0, &gate);
  if (!status) status = read_input(kernel->api, context, 1, &up);
  if (!status && (gate.size != up.size || gate.size % 8))
    status = fail(kernel->api, "gate and up must be of one size, a multiple of 8", 0);
  if (!status) status = make_output(kernel->api, context, 0, gate.axes, gate.num_axes, &product);
  if (status) return status;
  long num_vectors = gate.size / 8;
  void* arguments[] = {&gate.data, &up.data, &product, &num_vectors};
  return start(kernel, context, num_vectors, arguments);
}

static Status norm_rotary(Kernel* kernel, void* context) {
  enum { QUERY, KEY, QUERY_WEIGHT, KEY_WEIGHT, COSINES, SINES, NUM };
  Tensor given[NUM];
  Status status = NULL;
  for (size_t i = 0; !status && i < NUM; i++) status = read_input(kernel->api, context, i, given + i);
  if (status) return status;
  const Tensor *query = given + QUERY, *key = given + KEY;
  int64_t size = given[QUERY_WEIGHT].size;
  if (query->num_axes != 3 || key->num_axes != 3 || size % 8 || size > 256 ||
      given[KEY_WEIGHT].size != size || query->axes[2] % size || key->axes[2] % size ||
      query->axes[0] != key->axes[0] || query->axes[1] != key->axes[1])
    return fail(kernel->api, "query and key are [batch, width, heads x size], size % 8 = 0", 0);
  if (given[COSINES].num_axes != 2 || given[COSINES].axes[1] != size / 2 ||
      given[COSINES].axes[0] < query->axes[1] || given[SINES].size != given[COSINES].size)
    return fail(kernel->api, "the rotary tables are shorter than the rows", (int)query->axes[1]);
  void *query_out = NULL, *key_out = NULL;
  status = make_output(kernel->api, context, 0, query->axes, 3, &query_out);
  if (!status) status = make_output(kernel->api, context, 1, key->axes, 3, &key_out);
  if (status) return status;
  int query_heads = (int)(query->axes[2] / size), key_heads = (int)(key->axes[2] / size);
  int head_size = (int)size, width = (int)query->axes[1];
  long num_heads = (long)(query->axes[0] * query->axes[1] * (query_heads + key_heads));
  void* arguments[] = {&given[QUERY].data, &given[KEY].data, &given[QUERY_WEIGHT].data,
                       &given[KEY_WEIGHT].data, &given[COSINES].data, &given[SINES].data,
                       &query_out, &key_out, &num_heads, &query_heads, &key_heads, &head_size,
                       &width, &kernel->epsilon};
  return start(kernel, context, num_heads * GROUP, arguments);
}

/* ---- The operators as the runtime asks for them ---- */
static Status compute(void* kernel, void* context) {
  Kernel* own = kernel;
  return own->kernel == SILU_PRODUCT ? silu_product(own, context) : norm_rotary(own, context);
}
static const char* name_of(const Operator* own) {
  return own->kernel == SILU_PRODUCT ? "SiluProduct" : "NormRotary";
}
static const char* provider_of(const Operator* own) {
  (void)own;
  return "CUDAExecutionProvider";
}
static int type_of_input(const Operator* own, size_t index) {
  return index < 2 ? own->half : FLOAT;
}
static int type_of_output(const Operator* own, size_t index) {
  (void)index;
  return own->half;
}
static size_t inputs_of(const Operator* own) { return own->kernel == SILU_PRODUCT ? 2 : 6; }
static size_t outputs_of(const Operator* own) { return own->kernel == SILU_PRODUCT ? 1 : 2; }
static int required(const Operator* own, size_t index) {
  (void)own, (void)index;
  return REQUIRED;
}
static Status create(const Operator* own, Api api, const void* info, void** made) {
  Kernel* kernel = malloc(sizeof *kernel);
  if (!kernel) return fail(api, "no memory", 0);
  *kernel = (Kernel){api, own->kernel, own->half == FLOAT16, 0.0f};
  *made = kernel;
  if (own->kernel == SILU_PRODUCT) return NULL;
  return CALL(api, FLOAT_ATTRIBUTE, Status, const void*, const char*, float*)(info, "epsilon",
                                                                              &kernel->epsilon);
}

#define OPERATOR(KERNEL, HALF)                                                            \
  {API_VERSION, NULL, name_of, provider_of, type_of_input, inputs_of, type_of_output,     \
   outputs_of, NULL, free, required, required, on_device, one, one, one, one,             \
   create, compute, NULL, one, last_version, {0}, KERNEL, HALF}
static const Operator operators[] = {
    OPERATOR(SILU_PRODUCT, BFLOAT16), OPERATOR(SILU_PRODUCT, FLOAT16),
    OPERATOR(NORM_ROTARY, BFLOAT16), OPERATOR(NORM_ROTARY, FLOAT16)};

__attribute__((visibility("default"))) Status RegisterCustomOps(void* options, const ApiBase* base) {
  return register_operators(options, base, operators, sizeof operators / sizeof *operators);
}
