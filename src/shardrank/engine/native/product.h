/* HalfProduct: matrix products with weights in bfloat16. */
#include "spare.h"
#include "tile.h"

typedef struct {
  const float* values;
  const uint16_t* weight; /* [num_outputs / 32][num_inputs / 2][32][2] */
  float* made;
  Stored* rows; /* the values, [num_tokens][num_inputs] */
  int64_t num_tokens, num_inputs, num_outputs;
  int failed;
} Product;

/* One row, rounded as factors are. */
static void round_row(void* given, size_t index) {
  Product* own = given;
  for (int64_t i = 0; i < own->num_inputs; i += LANES)
    shorten(own->rows + index * own->num_inputs + i, load(own->values + index * own->num_inputs + i));
}

/* 32 columns of every row. */
static void multiply_columns(void* given, size_t index) {
  Product* own = given;
  const int64_t num_inputs = own->num_inputs;
  const uint16_t* weight = own->weight + index * num_inputs * COLUMNS;
#ifdef __AVX512BF16__
  const Stored* factors = weight;
#else
  Spare spare = take(num_inputs * COLUMNS * sizeof(Stored));
  if (!spare.memory) {
    own->failed = 1;
    return;
  }
  float* factors = spare.memory;
  for (int64_t i = 0; i < num_inputs; i++)
    for (int column = 0; column < COLUMNS; column++) {
      const uint32_t bits = (uint32_t)weight[i / 2 * 2 * COLUMNS + column * 2 + i % 2] << 16;
      memcpy(factors + i * COLUMNS + column, &bits, sizeof bits);
    }
#endif
  const int64_t num_blocks = (own->num_tokens + TALL - 1) / TALL;
  for (int64_t block = 0; block < num_blocks; block++) {
    const int64_t first = start_of(block, num_blocks, own->num_tokens);
    const int64_t last = start_of(block + 1, num_blocks, own->num_tokens);
    Vector sums[TALL][2];
    mix_block(own->rows + first * num_inputs, num_inputs, factors, num_inputs, (int)(last - first), sums);
    for (int64_t t = first; t < last; t++) {
      float* to = own->made + t * own->num_outputs + index * COLUMNS;
      store(to, sums[t - first][0]);
      store(to + LANES, sums[t - first][1]);
    }
  }
#ifndef __AVX512BF16__
  give(spare);
#endif
}
