/* How step 41 may see the cache of fsa_decode: pages as keys and values lie, without a copy where that can be. */
#ifndef CACHE_H
#define CACHE_H

#include "call.h"

/* Of a tensor of keys: the pages of each of its batches begin so many apart. */
struct layout {
    int64_t size;  /* keys of a page: all of a batch, or 1, which is (batch, seq, heads, dim) */
    int64_t batch; /* pages from a batch to the next */
    int64_t key;   /* and, of pages of 1, from a key to the next */
    int64_t pages; /* from the first to the last */
};

struct cache {
    struct fsa_cache of;  /* the caller's */
    bool plain;           /* step 35, or 40, may have it: dense, and of one length */
    struct layout layout;
    struct pages pages;   /* what step 41 is to be told */
    int32_t *table, *seqlens; /* in the workspace, where they are made */
};

void plan_cache(struct call *c, struct cache *d);
/* On a CPU: tables and lengths are read before anything is written, for a page that is not there must not be read. */
void check_cache(struct call *c, struct cache *d);
void fill_cache(const struct call *c, const struct cache *d); /* the table, and on a CPU lengths, that are to be made */

#endif
