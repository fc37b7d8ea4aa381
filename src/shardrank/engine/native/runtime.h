/* What is used of ONNX Runtime's interface, without a header of its own.
 *
 * Functions are taken by their place in its table, which never changes, and an operator is described
 * by a struct that only grows (onnxruntime_c_api.h: OrtApi, OrtCustomOp, ORT_API_VERSION).
 */
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void* Status; /* NULL where all is well */
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
  INTEGER_ATTRIBUTE = 86,
  INPUT = 90,
  OUTPUT = 91,
  RELEASE_SHAPE = 99,
  STREAM = 193,
  PARALLEL_FOR = 274,
};
enum { API_VERSION = 17, FLOAT = 1, UINT8 = 2, INT8 = 3, INT32 = 6, INT64 = 7, FLOAT16 = 10, BFLOAT16 = 16 };
enum { REQUIRED = 0 };
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
  void* later[4]; /* read by later versions only */
  int kernel;     /* which of a library's operators this is */
  int half;       /* FLOAT16 or BFLOAT16 */
};

enum { MAX_AXES = 8 };
typedef struct {
  void* data;
  int64_t axes[MAX_AXES];
  size_t num_axes;
  int64_t size;
} Tensor;

static Status fail(Api api, const char* what, int64_t found) {
  char message[160];
  snprintf(message, sizeof message, "shardrank: %s (%lld)", what, (long long)found);
  return CALL(api, CREATE_STATUS, Status, int, const char*)(1, message);
}

static Status read_input(Api api, void* context, size_t index, Tensor* tensor) {
  void *value = NULL, *shape = NULL;
  *tensor = (Tensor){.size = 0};
  Status status = CALL(api, INPUT, Status, void*, size_t, void**)(context, index, &value);
  if (status || !value) return status;
  status = CALL(api, TENSOR_DATA, Status, void*, void**)(value, &tensor->data);
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

static Status make_output(Api api, void* context, size_t index, const int64_t* axes,
                          size_t num_axes, void* data) {
  void* value = NULL;
  Status status = CALL(api, OUTPUT, Status, void*, size_t, const int64_t*, size_t, void**)(
      context, index, axes, num_axes, &value);
  return status ? status : CALL(api, TENSOR_DATA, Status, void*, void**)(value, data);
}

static int on_device(const Operator* own, size_t index) {
  (void)own, (void)index;
  return 0;
}
static int one(const Operator* own) {
  (void)own;
  return 1;
}
static int last_version(const Operator* own) {
  (void)own;
  return INT_MAX;
}

/* RegisterCustomOps: `operators` into the domain "shardrank". */
static Status register_operators(void* options, const ApiBase* base, const Operator* operators,
                                 size_t number) {
  Api api = base->get_api(API_VERSION);
  void* domain = NULL;
  Status status = CALL(api, CREATE_DOMAIN, Status, const char*, void**)("shardrank", &domain);
  for (size_t i = 0; !status && i < number; i++)
    status = CALL(api, ADD_OPERATOR, Status, void*, const Operator*)(domain, operators + i);
  return status ? status : CALL(api, ADD_DOMAIN, Status, void*, void*)(options, domain);
}
