/* Memory that calls leave to each other: fresh pages cost more than a layer's packing. */
#pragma once
#include <pthread.h>
#include <stdlib.h>

enum { MAX_SPARE = 64, LARGEST_SPARE = 24 << 20 };
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
  int best = -1; /* the smallest that fits */
  for (int i = 0; i < num_spares; i++)
    if (spares[i].num_bytes >= num_bytes && (best < 0 || spares[i].num_bytes < spares[best].num_bytes))
      best = i;
  /* Where none does, one makes room for it: sizes follow the runs. */
  if (best >= 0 || num_spares) {
    const int taken = best >= 0 ? best : num_spares - 1;
    found = spares[taken];
    spares[taken] = spares[--num_spares];
  }
  pthread_mutex_unlock(&spares_lock);
  if (best >= 0) return found;
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
