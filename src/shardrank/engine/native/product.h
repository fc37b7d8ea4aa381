/* HalfProduct: matrix products with weights in bfloat16. */
#include "spare.h"
#include "tile.h"

typedef struct {
  const float* values;
  const uint16_t* weight; /* [num_panels][num_inputs / 2][32][2] */
  float* made;
  Stored* rows; /* the values, [num_tokens][num_inputs] */
  int64_t num_tokens, num_inputs, num_panels, num_groups, stride;
  int failed;
} Product;

/* One row, rounded as factors are. */
static void round_row(void* given, size_t index) {
  Product* own = given;
  shorten_all(own->rows + index * own->stride, own->values + index * own->num_inputs, own->num_inputs);
}

/* [num_inputs / 2][32][2] in bfloat16 to factors, [num_inputs / TOGETHER][32][TOGETHER]. */
static inline void widen(const uint16_t* weight, int64_t num_inputs, float* factors) {
  for (int64_t i = 0; i < num_inputs; i += 2, weight += 2 * COLUMNS, factors += 2 * COLUMNS)
    for (int half = 0; half < 2; half++) {
      const Unsigned pairs = (Unsigned)load((const float*)weight + half * LANES);
      store(factors + half * LANES, (Vector)(pairs << 16));
      store(factors + COLUMNS + half * LANES, (Vector)(pairs & 0xffff0000));
    }
}

/* One panel of 32 columns for one group of tokens. */
static void multiply_columns(void* given, size_t index) {
  Product* own = given;
  const int64_t num_inputs = own->num_inputs, num_outputs = own->num_panels * COLUMNS;
  const int64_t group = index / own->num_panels, panel = index % own->num_panels;
  const uint16_t* weight = own->weight + panel * num_inputs * COLUMNS;
#ifdef HAS_BFLOAT16
  const Stored* factors = weight;
#else
  Spare spare = take(num_inputs * COLUMNS * sizeof(Stored));
  if (!spare.memory) {
    own->failed = 1;
    return;
  }
  float* factors = spare.memory;
  widen(weight, num_inputs, factors);
#endif
  const int64_t from = start_of(group, own->num_groups, own->num_tokens);
  const int64_t num_tokens = start_of(group + 1, own->num_groups, own->num_tokens) - from;
  const int64_t num_blocks = (num_tokens + TALL - 1) / TALL;
  for (int64_t block = 0; block < num_blocks; block++) {
    const int64_t first = from + start_of(block, num_blocks, num_tokens);
    const int64_t last = from + start_of(block + 1, num_blocks, num_tokens);
    Vector sums[TALL][2];
    mix_block(own->rows + first * own->stride, own->stride, factors, num_inputs, (int)(last - first), sums);
    for (int64_t t = first; t < last; t++) {
      float* to = own->made + t * num_outputs + panel * COLUMNS;
      store(to, sums[t - first][0]);
      store(to + LANES, sums[t - first][1]);
    }
  }
#ifndef HAS_BFLOAT16
  give(spare);
#endif
}
