/* Memory that calls leave to each other: fresh pages cost more than a layer's packing. */
#pragma once
#include <pthread.h>
#include <stdlib.h>

enum { MAX_SPARE = 64, LARGEST_SPARE = 64 << 20 };
typedef struct {
  void* memory;
  size_t num_bytes;
} Spare;
static Spare spares[MAX_SPARE];
static int num_spares;
static pthread_mutex_t spares_lock = PTHREAD_MUTEX_INITIALIZER;

static Spare take(size_t num_bytes) {
  Spare found = {NULL, 0};
  pthread_mutex_lock(&spares_lock);
  if (num_spares) found = spares[--num_spares];
  pthread_mutex_unlock(&spares_lock);
  if (found.num_bytes >= num_bytes) return found;
  free(found.memory);
  found.num_bytes = (num_bytes + num_bytes / 4 + 4095) / 4096 * 4096;
  found.memory = aligned_alloc(4096, found.num_bytes);
  return found;
}

static void give(Spare spare) {
  pthread_mutex_lock(&spares_lock);
  const int is_kept = spare.memory && spare.num_bytes <= LARGEST_SPARE && num_spares < MAX_SPARE;
  if (is_kept) spares[num_spares++] = spare;
  pthread_mutex_unlock(&spares_lock);
  if (!is_kept) free(spare.memory);
}
