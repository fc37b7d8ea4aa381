/* Seven operators of the domain "shardrank" for ONNX Runtime's CPU provider, in float32.
 *
 *   RowQuantize(values; rotation) -> integers, scales
 *   IntegerProduct(integers, scales, weight in int8 [n / 32, inputs / 4, 32, 4], weight_scales,
 *                  offsets; gated) -> product
 *   SumNorm(residual, values, weight; epsilon) -> normed, sum
 *   SumNormQuantize(residual, values, weight; epsilon) -> integers, scales, sum
 *   SiluProduct(gate, up) -> product
 *   HalfProduct(values, weight in bfloat16 [n / 32, inputs / 2, 32, 2]) -> product
 *   PackedAttention(query, key, value, query_weight, key_weight, cosines, sines, ends,
 *                   past_key, past_value, keeps_past; epsilon)
 *                   -> attended, present_key, present_value
 *
 * Values are [tokens, n]; integers uint8 with zero at 128; offsets 128 times the sums of a weight's
 * columns. keeps_past is 1 where present keys and values of the rows are asked for, else 0: they
 * are empty then. A gated product has n / 2 columns: SiLU of the first 16 of every 32 times the others.
 * What a token gets depends on that token and those before it in its row alone, bit for bit: integers
 * add up exactly, and sums run in the order of channels and of absolute positions, whatever else is in
 * the run and however much of a row is past.
 *
 * Compiled for the processor that is there (-march=native): vectors of 16 values become whatever
 * registers it has. With AVX512_BF16 the attention multiplies in bfloat16 and adds up in float32, as
 * the model was trained; else in float32.
 */
#include "attention.h"
#include "integer_product.h"
#include "product.h"
#include "runtime.h"

enum {
  ROW_QUANTIZE, INTEGER_PRODUCT, SUM_NORM, SUM_NORM_QUANTIZE, SILU_PRODUCT, HALF_PRODUCT, PACKED_ATTENTION
};
typedef struct {
  Api api;
  int kernel;
  float epsilon;
  int64_t rotation, is_gated;
  int is_tiled;
} Kernel;

static Status parallel_for(Api api, void* context, void (*work)(void*, size_t), size_t total,
                           void* given) {
  return CALL(api, PARALLEL_FOR, Status, void*, void (*)(void*, size_t), size_t, size_t, void*)(
      context, work, total, 0, given);
}

static int is_norm(int kernel) { return kernel == SUM_NORM || kernel == SUM_NORM_QUANTIZE; }
static int is_quantizing(int kernel) { return kernel == ROW_QUANTIZE || kernel == SUM_NORM_QUANTIZE; }

static Status compute_rows(Kernel* kernel, void* context) {
  Api api = kernel->api;
  const int quantizes = is_quantizing(kernel->kernel), norms = is_norm(kernel->kernel);
  Tensor values, other = {0}, weight = {0};
  Status status = read_input(api, context, 0, &values);
  if (!status && kernel->kernel != ROW_QUANTIZE) status = read_input(api, context, 1, &other);
  if (!status && norms) status = read_input(api, context, 2, &weight);
  if (status) return status;
  const int64_t number = values.num_axes ? values.axes[values.num_axes - 1] : 0;
  if (number % LANES || number == 0 || (other.data && other.size != values.size) ||
      (weight.data && weight.size != number))
    return fail(api, "values must be [tokens, n] and n a multiple of 16", number);
  const int64_t rotation = kernel->rotation;
  if (rotation & (rotation - 1) || (rotation && number % rotation))
    return fail(api, "values are rotated by powers of two that divide n", rotation);
  Rows rows = {.values = values.data, .other = other.data, .weight = weight.data,
               .number = number, .rotation = kernel->rotation, .epsilon = kernel->epsilon,
               .num_tokens = values.size / number};
  int64_t axes[2] = {rows.num_tokens, 1};
  void (*work)(void*, size_t) = norms ? sum_norm_rows : quantizes ? quantize_rows : gate_rows;
  void* made = quantizes ? (void*)&rows.integers : (void*)&rows.made;
  size_t output = 0;
  status = make_output(api, context, output++, values.axes, values.num_axes, made);
  if (!status && quantizes) status = make_output(api, context, output++, axes, 2, &rows.scales);
  if (!status && norms)
    status = make_output(api, context, output, values.axes, values.num_axes, &rows.sum);
  if (!status && rows.num_tokens)
    status = parallel_for(api, context, work, (rows.num_tokens + PIECE - 1) / PIECE, &rows);
  return !status && rows.failed ? fail(api, "no memory", number) : status;
}

static Status compute_integers(Kernel* kernel, void* context) {
  enum { INTEGERS, SCALES, WEIGHT, WEIGHT_SCALES, OFFSETS };
  Api api = kernel->api;
  Tensor given[OFFSETS + 1];
  Status status = NULL;
  for (size_t i = 0; !status && i <= OFFSETS; i++) status = read_input(api, context, i, given + i);
  if (status) return status;
  const int64_t *tokens = given[INTEGERS].axes, *axes = given[WEIGHT].axes;
  if (given[INTEGERS].num_axes != 2 || given[WEIGHT].num_axes != 4 || axes[2] != COLUMNS ||
      axes[3] != 4 || 4 * axes[1] != tokens[1] || !tokens[1])
    return fail(api, "a weight is [n / 32, inputs / 4, 32, 4]", given[INTEGERS].axes[1]);
  if (given[SCALES].size != tokens[0] || given[WEIGHT_SCALES].size != axes[0] * COLUMNS ||
      given[OFFSETS].size != axes[0] * COLUMNS)
    return fail(api, "a scale for each token, a scale and an offset for each column", axes[0]);
  IntegerProduct own = {.integers = given[INTEGERS].data, .weight = given[WEIGHT].data,
                        .scales = given[SCALES].data, .weight_scales = given[WEIGHT_SCALES].data,
                        .offsets = given[OFFSETS].data, .num_tokens = tokens[0],
                        .num_inputs = tokens[1], .num_panels = axes[0],
                        .num_groups = (tokens[0] * tokens[1] + NEAR_BYTES - 1) / NEAR_BYTES,
                        .is_gated = kernel->is_gated != 0,
                        .is_tiled = kernel->is_tiled && tokens[1] % TILED_INPUTS == 0};
  const int64_t made[2] = {tokens[0], axes[0] * COLUMNS / (own.is_gated ? 2 : 1)};
  status = make_output(api, context, 0, made, 2, &own.made);
  if (status || !tokens[0]) return status;
  return parallel_for(api, context, multiply_panel, own.num_groups * own.num_panels, &own);
}

static Status compute_product(Kernel* kernel, void* context) {
  Api api = kernel->api;
  Tensor values, weight;
  Status status = read_input(api, context, 0, &values);
  if (!status) status = read_input(api, context, 1, &weight);
  if (status) return status;
  const int64_t* axes = weight.axes;
  if (values.num_axes != 2 || weight.num_axes != 4 || axes[2] != COLUMNS || axes[3] != 2 ||
      2 * axes[1] != values.axes[1] || values.axes[1] % LANES)
    return fail(api, "a weight is [n / 32, inputs / 2, 32, 2]", values.num_axes);
  Product own = {.values = values.data, .weight = weight.data, .num_tokens = values.axes[0],
                 .num_inputs = values.axes[1], .num_panels = axes[0]};
  const int64_t made[2] = {own.num_tokens, axes[0] * COLUMNS};
  own.stride = own.num_inputs + APART_BY;
  const int64_t num_bytes = own.num_tokens * own.stride * sizeof(Stored);
  own.num_groups = (num_bytes + NEAR_BYTES - 1) / NEAR_BYTES;
  status = make_output(api, context, 0, made, 2, &own.made);
  if (status || !own.num_tokens) return status;
  Spare spare = take(num_bytes);
  if (!spare.memory) return fail(api, "no memory for so many tokens", own.num_tokens);
  own.rows = spare.memory;
  status = parallel_for(api, context, round_row, own.num_tokens, &own);
  if (!status) status = parallel_for(api, context, multiply_columns, own.num_groups * own.num_panels, &own);
  give(spare);
  return !status && own.failed ? fail(api, "no memory for a weight", own.num_inputs) : status;
}

static Status compute_attention(Kernel* kernel, void* context) {
  enum {
    QUERY, KEY, VALUE, QUERY_WEIGHT, KEY_WEIGHT, COSINES, SINES, ENDS, PAST_KEY, PAST_VALUE, KEEPS
  };
  Api api = kernel->api;
  Tensor given[KEEPS + 1];
  Status status = NULL;
  for (size_t i = 0; !status && i <= KEEPS; i++) status = read_input(api, context, i, given + i);
  if (status) return status;
  if (given[KEEPS].size != 1) return fail(api, "keeps_past is one number", given[KEEPS].size);
  const int64_t size = given[QUERY_WEIGHT].size, num_tokens = given[QUERY].axes[0];
  const Tensor* past = given + PAST_KEY;
  Attention own = {
      .query = given[QUERY].data, .key = given[KEY].data, .value = given[VALUE].data,
      .query_weight = given[QUERY_WEIGHT].data, .key_weight = given[KEY_WEIGHT].data,
      .cosines = given[COSINES].data, .sines = given[SINES].data, .ends = given[ENDS].data,
      .past_key = past->data, .past_value = given[PAST_VALUE].data,
      .num_rows = given[ENDS].size,
      .num_past = past->data ? past->axes[2] : 0, .past_rows = past->data ? past->axes[0] : 0,
      .num_tokens = num_tokens, .size = (int)size, .epsilon = kernel->epsilon,
      .heads = size ? (int)(given[QUERY].axes[1] / size) : 0,
      .key_heads = size ? (int)(given[KEY].axes[1] / size) : 0};
  if (size == 0 || size % COLUMNS || given[QUERY].num_axes != 2 ||
      given[KEY].num_axes != 2 || own.key_heads == 0 || given[QUERY].axes[1] % size ||
      given[KEY].axes[1] % size ||
      own.heads % own.key_heads || given[KEY].size != given[VALUE].size ||
      given[KEY].axes[0] != num_tokens)
    return fail(api, "heads must be multiples of 32 values, and whole groups of them", size);
  const Tensor *cosines = given + COSINES, *sines = given + SINES;
  if (given[KEY_WEIGHT].size != size || cosines->num_axes != 2 || cosines->axes[1] != size / 2 ||
      sines->size != cosines->size)
    return fail(api, "norms and rotary tables are of another size than heads", size);
  if (own.num_past && (past->num_axes != 4 || past->axes[1] != own.key_heads ||
                       past->axes[3] != size || past->size != given[PAST_VALUE].size ||
                       (own.past_rows != 1 && own.past_rows != own.num_rows)))
    return fail(api, "a past is [1 or rows, heads, tokens, size]", own.past_rows);
  for (int64_t row = 0, start = 0; row < own.num_rows; start = own.ends[row++]) {
    if (own.ends[row] < start) return fail(api, "ends of rows must not fall", own.ends[row]);
    if (own.ends[row] - start > own.longest) own.longest = own.ends[row] - start;
  }
  if (own.num_rows ? own.ends[own.num_rows - 1] != num_tokens : num_tokens != 0)
    return fail(api, "the last row must end with the last token", num_tokens);
  if (own.num_past + own.longest > cosines->axes[0])
    return fail(api, "the rotary tables are shorter than the rows", own.num_past + own.longest);
  own.keeps = *(const int64_t*)given[KEEPS].data == 1;
  const int64_t seen = own.num_past + own.longest, part = own.num_past * size;
  const int64_t axes[4] = {own.keeps ? own.num_rows : 0, own.key_heads, own.keeps ? seen : 0, size};
  status = make_output(api, context, 0, given[QUERY].axes, 2, &own.attended);
  if (!status) status = make_output(api, context, 1, axes, 4, &own.present_key);
  if (!status) status = make_output(api, context, 2, axes, 4, &own.present_value);
  if (status) return status;
  for (int64_t h = 0; part && own.keeps && h < own.num_rows * own.key_heads; h++) {
    const int64_t from = (own.past_rows == 1 ? h % own.key_heads : h) * part;
    memcpy(own.present_key + h * seen * size, own.past_key + from, part * sizeof(float));
    memcpy(own.present_value + h * seen * size, own.past_value + from, part * sizeof(float));
  }
  if (!num_tokens) return NULL;
  status = parallel_for(api, context, attend_head, own.key_heads, &own);
  return !status && own.failed ? fail(api, "no memory for a row of tokens", own.longest) : status;
}

static Status compute(void* kernel, void* context) {
  Kernel* own = kernel;
  switch (own->kernel) {
    case INTEGER_PRODUCT: return compute_integers(own, context);
    case HALF_PRODUCT: return compute_product(own, context);
    case PACKED_ATTENTION: return compute_attention(own, context);
    default: return compute_rows(own, context);
  }
}

static Status create(const Operator* own, Api api, const void* info, void** made) {
  Kernel* kernel = malloc(sizeof *kernel);
  if (!kernel) return fail(api, "no memory", 0);
  *kernel = (Kernel){.api = api, .kernel = own->kernel,
                     .is_tiled = own->kernel == INTEGER_PRODUCT && may_tile()};
  *made = kernel;
  if (is_norm(own->kernel) || own->kernel == PACKED_ATTENTION)
    return CALL(api, FLOAT_ATTRIBUTE, Status, const void*, const char*, float*)(info, "epsilon",
                                                                                &kernel->epsilon);
  const int is_product = own->kernel == INTEGER_PRODUCT;
  if (own->kernel == ROW_QUANTIZE || is_product)
    return CALL(api, INTEGER_ATTRIBUTE, Status, const void*, const char*, int64_t*)(
        info, is_product ? "gated" : "rotation", is_product ? &kernel->is_gated : &kernel->rotation);
  return NULL;
}

static const char* name_of(const Operator* own) {
  static const char* const names[] = {"RowQuantize", "IntegerProduct", "SumNorm", "SumNormQuantize",
                                      "SiluProduct", "HalfProduct",    "PackedAttention"};
  return names[own->kernel];
}
static const char* provider_of(const Operator* own) {
  (void)own;
  return "CPUExecutionProvider";
}
static int type_of_input(const Operator* own, size_t index) {
  static const int of_integers[] = {UINT8, FLOAT, INT8, FLOAT, INT32};
  if (own->kernel == INTEGER_PRODUCT) return of_integers[index];
  if (own->kernel == HALF_PRODUCT && index == 1) return BFLOAT16;
  return own->kernel == PACKED_ATTENTION && (index == 7 || index == 10) ? INT64 : FLOAT;
}
static int type_of_output(const Operator* own, size_t index) {
  return is_quantizing(own->kernel) && index == 0 ? UINT8 : FLOAT;
}
static size_t inputs_of(const Operator* own) {
  static const size_t numbers[] = {1, 5, 3, 3, 2, 2, 11};
  return numbers[own->kernel];
}
static size_t outputs_of(const Operator* own) {
  static const size_t numbers[] = {2, 1, 2, 3, 1, 1, 3};
  return numbers[own->kernel];
}
static int kind_of(const Operator* own, size_t index) {
  (void)own, (void)index;
  return REQUIRED;
}

#define OPERATOR(KERNEL)                                                                       \
  {API_VERSION, NULL, name_of, provider_of, type_of_input, inputs_of, type_of_output,          \
   outputs_of, NULL, free, kind_of, kind_of, on_device, one, one, one, one,                    \
   create, compute, NULL, one, last_version, {0}, KERNEL, 0}
static const Operator operators[] = {OPERATOR(ROW_QUANTIZE), OPERATOR(INTEGER_PRODUCT),
                                     OPERATOR(SUM_NORM),     OPERATOR(SUM_NORM_QUANTIZE),
                                     OPERATOR(SILU_PRODUCT), OPERATOR(HALF_PRODUCT),
                                     OPERATOR(PACKED_ATTENTION)};

__attribute__((visibility("default"))) Status RegisterCustomOps(void* options, const ApiBase* base) {
  return register_operators(options, base, operators, sizeof operators / sizeof *operators);
}
