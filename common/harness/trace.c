/* --trace: no run, but how the state of a short row grows, an element at a time, and what the step's CPU version makes of it. */
#include <math.h>

#include "merge.h"
#include "program.h"

double plain(float x)
{
    return isnan(x) ? (double)NAN : (double)x;
}

static void print_cell(float x)
{
    printf(" %10.5g", plain(x));
}

static void print_state(struct softmax_state s, const float *payload)
{
    print_cell(s.m);
    print_cell(s.l);
    if (payload)
        print_cell(*payload);
    printf("\n");
}

/* What a part's sums count for in a union whose maximum is m; an empty part counts for nothing. */
static float share(struct softmax_state part, float m)
{
    return part.l == 0 ? 0 : expf(part.m - m);
}

/* Merges the elements into one state, by the rule that all steps share. */
static void trace_row(const float *x, int count)
{
    struct softmax_state s = softmax_empty();
    printf("  %10s %10s %10s\n  %10s", "element", "m", "l", "none yet");
    print_state(s, NULL);
    for (int i = 0; i < count; i++) {
        s = softmax_merge(s, softmax_one(x[i]));
        printf(" ");
        print_cell(x[i]);
        print_state(s, NULL);
    }
}

/* The same with a payload. Returns o / l. */
static float trace_keys(const float *score, const float *value, int count)
{
    struct softmax_state s = softmax_empty();
    float o = 0;
    printf("  %10s %10s %10s %10s %10s\n  %10s %10s", "score", "value", "m", "l", "o", "none yet", "");
    print_state(s, &o);
    for (int i = 0; i < count; i++) {
        struct softmax_state one = softmax_one(score[i]), both = softmax_merge(s, one);
        o = o * share(s, both.m) + value[i] * share(one, both.m);
        s = both;
        printf(" ");
        print_cell(score[i]);
        print_cell(value[i]);
        print_state(s, &o);
    }
    return o / s.l;
}

/* A row of x; or one query of 1 and keys that are the scores, of heads of 1, with a scale of 1. */
void trace(const struct kind *kind, const void *step, const struct options *asked)
{
    struct options o = *asked;
    float y[MAX_TRACED], query = 1, *softmax[] = { o.trace, y }, *attention[] = { &query, o.trace, o.values, y, y + 1 };
    o.rows = 1;
    o.cols = o.traced;
    o.attention = (struct attention){ .batch = 1, .heads = 1, .kv_heads = 1, .seq_q = 1, .seq_k = o.traced, .dim = 1 };
    o.attention.scale = 1;
    struct run r = { .kind = kind, .step = step, .o = &o, .device = &cpu_device };
    for (int i = 0; i < kind->inputs + kind->outputs; i++)
        r.tensor[i].data = o.is_attention ? attention[i] : softmax[i];
    const char *why = kind->missing(step, &o, &cpu_device);
    if (why)
        usage_error("--trace: %s", why);
    kind->call(&r);
    if (o.is_attention) {
        float quotient = trace_keys(o.trace, o.values, o.traced);
        printf("  O = o / l = %.5g; this step computes %.5g\n", plain(quotient), plain(y[0]));
        return;
    }
    trace_row(o.trace, o.traced);
    printf("  y, as this step computes it:");
    for (int i = 0; i < o.traced; i++)
        printf(" %.4f", plain(y[i]));
    printf("\n");
}
