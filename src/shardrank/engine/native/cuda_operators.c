/* Two operators of the domain "shardrank" for ONNX Runtime's CUDA provider, over the kernels of
 * cuda_kernels.cu, whose machine code is in this library (CUBIN names the file).
 *
 *   SiluProduct(gate, up) -> product
 *   NormRotary(query, key, query_weight, key_weight, cosines, sines; epsilon) -> query, key
 *
 * Query and key are [batch, width, heads x size]; a token's position is its column. Needs no header
 * of ONNX Runtime or CUDA: functions of the one are taken by their place in its table, which never
 * changes (onnxruntime_c_api.h, structs OrtApi and OrtCustomOp), those of the other by their name.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

__asm__(
    ".section .rodata\n.balign 64\n.hidden kernel_code\n.global kernel_code\nkernel_code:\n"
    ".incbin \"" CUBIN "\"\n.byte 0\n.section .note.GNU-stack,\"\",@progbits\n.text\n");
extern const char kernel_code[];

/* ---- ONNX Runtime: what is used of its interface ---- */
typedef void* Status;
typedef const void* const* Api;
enum {
  CREATE_STATUS = 0,
  CREATE_DOMAIN = 26,
  ADD_OPERATOR = 27,
  ADD_DOMAIN = 28,
  TENSOR_DATA = 51,
  NUM_AXES = 61,
  AXES = 62,
  SHAPE_OF = 65,
  FLOAT_ATTRIBUTE = 85,
  INPUT = 90,
  OUTPUT = 91,
  RELEASE_SHAPE = 99,
  STREAM = 193,
};
enum { API_VERSION = 17, FLOAT = 1, FLOAT16 = 10, BFLOAT16 = 16, NOT_IMPLEMENTED = 9 };
#define CALL(api, place, result, ...) ((result(*)(__VA_ARGS__))(api)[place])

typedef struct {
  Api (*get_api)(uint32_t version);
  const char* (*get_version)(void);
} ApiBase;

typedef struct Operator Operator;
struct Operator {
  uint32_t version;
  void* (*create_kernel)(const Operator*, Api, const void*);
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  int (*input_type)(const Operator*, size_t);
  size_t (*num_inputs)(const Operator*);
  int (*output_type)(const Operator*, size_t);
  size_t (*num_outputs)(const Operator*);
  void (*compute_kernel)(void*, void*);
  void (*destroy_kernel)(void*);
  int (*input_kind)(const Operator*, size_t);
  int (*output_kind)(const Operator*, size_t);
  int (*input_memory)(const Operator*, size_t);
  int (*least_inputs)(const Operator*);
  int (*same_inputs)(const Operator*);
  int (*least_outputs)(const Operator*);
  int (*same_outputs)(const Operator*);
  Status (*create)(const Operator*, Api, const void*, void**);
  Status (*compute)(void*, void*);
  Status (*infer_shape)(const Operator*, void*);
  int (*first_version)(const Operator*);
  int (*last_version)(const Operator*);
  /* Ours, behind what the runtime reads of API_VERSION. */
  void* unused[4];
  int half;
  int kernel;
};

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

static Status fail(Api api, const char* what, int code) {
  char message[160];
  snprintf(message, sizeof message, "shardrank: %s (%d)", what, code);
  return CALL(api, CREATE_STATUS, Status, int, const char*)(1, message);
}

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

enum { MAX_AXES = 8 };
typedef struct {
  void* data;
  int64_t axes[MAX_AXES];
  size_t num_axes;
  int64_t size;
} Tensor;

static Status read_input(Api api, void* context, size_t index, Tensor* tensor) {
  void *value = NULL, *shape = NULL;
  Status status = CALL(api, INPUT, Status, void*, size_t, void**)(context, index, &value);
  if (!status) status = CALL(api, TENSOR_DATA, Status, void*, void**)(value, &tensor->data);
  if (!status) status = CALL(api, SHAPE_OF, Status, void*, void**)(value, &shape);
  if (status) return status;
  status = CALL(api, NUM_AXES, Status, void*, size_t*)(shape, &tensor->num_axes);
  if (!status && tensor->num_axes > MAX_AXES) status = fail(api, "too many axes", 0);
  if (!status)
    status = CALL(api, AXES, Status, void*, int64_t*, size_t)(shape, tensor->axes, tensor->num_axes);
  CALL(api, RELEASE_SHAPE, void, void*)(shape);
  tensor->size = 1;
  for (size_t axis = 0; !status && axis < tensor->num_axes; axis++) tensor->size *= tensor->axes[axis];
  return status;
}

static Status make_output(Api api, void* context, size_t index, const Tensor* like, void** data) {
  void* value = NULL;
  Status status = CALL(api, OUTPUT, Status, void*, size_t, const int64_t*, size_t, void**)(
      context, index, like->axes, like->num_axes, &value);
  return status ? status : CALL(api, TENSOR_DATA, Status, void*, void**)(value, data);
}

static Status silu_product(Kernel* kernel, void* context) {
  Tensor gate, up;
  void* product = NULL;
  Status status = read_input(kernel->api, context, 0, &gate);
  if (!status) status = read_input(kernel->api, context, 1, &up);
  if (!status && (gate.size != up.size || gate.size % 8))
    status = fail(kernel->api, "gate and up must be of one size, a multiple of 8", 0);
  if (!status) status = make_output(kernel->api, context, 0, &gate, &product);
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
  status = make_output(kernel->api, context, 0, query, &query_out);
  if (!status) status = make_output(kernel->api, context, 1, key, &key_out);
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
static Status create(const Operator* operator, Api api, const void* info, void** made);
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
  return 0;
}
static int on_device(const Operator* own, size_t index) {
  (void)own, (void)index;
  return 0;
}
static int one(const Operator* own) {
  (void)own;
  return 1;
}
static int first_version(const Operator* own) {
  (void)own;
  return 1;
}
static int last_version(const Operator* own) {
  (void)own;
  return INT_MAX;
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

#define OPERATOR(KERNEL, HALF)                                                                    \
  {API_VERSION, NULL,     name_of,   provider_of, type_of_input, inputs_of, type_of_output,       \
   outputs_of,  NULL,     free,      required,    required,      on_device, one,                  \
   one,         one,      one,       create,      compute,       NULL,      first_version,        \
   last_version, {0},     HALF,      KERNEL}
static const Operator operators[] = {
    OPERATOR(SILU_PRODUCT, BFLOAT16), OPERATOR(SILU_PRODUCT, FLOAT16),
    OPERATOR(NORM_ROTARY, BFLOAT16), OPERATOR(NORM_ROTARY, FLOAT16)};

__attribute__((visibility("default"))) Status RegisterCustomOps(void* options, const ApiBase* base) {
  Api api = base->get_api(API_VERSION);
  void* domain = NULL;
  Status status = CALL(api, CREATE_DOMAIN, Status, const char*, void**)("shardrank", &domain);
  for (size_t i = 0; !status && i < sizeof operators / sizeof *operators; i++)
    status = CALL(api, ADD_OPERATOR, Status, void*, const Operator*)(domain, operators + i);
  return status ? status : CALL(api, ADD_DOMAIN, Status, void*, void*)(options, domain);
}
