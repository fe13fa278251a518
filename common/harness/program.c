/* A step's program, whatever its kind: run it on every device asked for, hold it to what it claims, and report. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program.h"

/* Which step this is, and which one is before it. */
struct names {
    const char *step, *before;
    const void *before_step;
};

/* ---- tensors */

static struct buffer workspace_new(const struct run *r)
{
    struct buffer workspace = { 0 };
    size_t bytes = r->device->apart ? r->kind->workspace(r->step, r->o, r->device) : 0; /* a CPU's steps ask for scratch() */
    if (bytes) {
        workspace = buffer_new(bytes, r->device);
        r->device->fill(workspace.data, 0, bytes);
    }
    return workspace;
}

/* Outputs, and on a device apart everything. inputs: on the host, the caller's. */
static void tensors_new(struct run *r, const struct buffer *inputs)
{
    for (int i = 0; i < r->kind->inputs + r->kind->outputs; i++) {
        bool input = i < r->kind->inputs;
        r->host[i] = input ? inputs[i] : buffer_new(r->kind->bytes(r->o, i), &cpu_device);
        r->tensor[i] = r->device->apart ? buffer_new(r->host[i].bytes, r->device) : r->host[i];
        if (input && r->device->apart)
            r->device->upload(r->tensor[i].data, r->host[i].data, r->host[i].bytes);
    }
}

static void tensors_free(struct run *r)
{
    for (int i = 0; i < r->kind->inputs + r->kind->outputs; i++) {
        if (r->device->apart)
            buffer_free(&r->tensor[i]);
        if (i >= r->kind->inputs)
            buffer_free(&r->host[i]);
    }
    buffer_free(&r->workspace);
}

static int64_t bytes_of_all(const struct run *r)
{
    size_t sum = 0;
    for (int i = 0; i < r->kind->inputs + r->kind->outputs; i++)
        sum += r->tensor[i].bytes;
    return (int64_t)sum;
}

/* ---- judging */

void problem_run(struct run *r, const char *name)
{
    int tensors = r->kind->inputs + r->kind->outputs;
    for (int i = r->kind->inputs; i < tensors; i++)
        buffer_poison(&r->tensor[i]);
    r->kind->call(r);
    r->device->finish(name);
    for (int i = r->kind->inputs; i < tensors && r->device->apart; i++)
        r->device->download(r->host[i].data, r->tensor[i].data, r->host[i].bytes);
}

/* The verdict on one run, and on the memory around its tensors. */
static struct verdict judge(struct run *r, const char *name)
{
    int tensors = r->kind->inputs + r->kind->outputs;
    problem_run(r, name);
    struct verdict v = r->kind->verify(r);
    for (int i = 0; i < tensors; i++)
        if (!buffer_guards_intact(&r->tensor[i])) {
            v.pass = false;
            v.wrong += v.wrong == 0; /* also where a row was in doubt */
            snprintf(v.what, sizeof v.what, "memory outside the tensors was written");
        }
    return v;
}

struct verdict problem_judge(struct run *r, const char *name)
{
    struct buffer inputs[MAX_TENSORS];
    r->kind->inputs_new(r->o, inputs);
    tensors_new(r, inputs);
    r->workspace = workspace_new(r);
    return judge(r, name);
}

void problem_free(struct run *r)
{
    tensors_free(r);
    for (int i = 0; i < r->kind->inputs; i++)
        buffer_free(&r->host[i]);
}

bool rows_stand_alone(struct run *r, const char *name)
{
    struct buffer kept[MAX_TENSORS] = { { 0 } }, *x = &r->host[0];
    int64_t rows = r->kind->rows(r->o), count = (int64_t)(x->bytes / dtype_bytes(r->o->dtype)), width = count / rows;
    int tensors = r->kind->inputs + r->kind->outputs;
    for (int i = r->kind->inputs; i < tensors; i++) {
        kept[i] = buffer_new(r->host[i].bytes, &cpu_device);
        memcpy(kept[i].data, r->host[i].data, kept[i].bytes);
    }
    for (int64_t i = count - width; i < count; i++)
        element_set(x->data, r->o->dtype, i, 8 * element(x->data, r->o->dtype, i));
    if (r->device->apart)
        r->device->upload(r->tensor[0].data, x->data, x->bytes);
    problem_run(r, name);
    bool same = true;
    for (int i = r->kind->inputs; i < tensors; i++) {
        same &= memcmp(r->host[i].data, kept[i].data, kept[i].bytes / (size_t)rows * (size_t)(rows - 1)) == 0;
        buffer_free(&kept[i]);
    }
    return same;
}

int small_limit = INT_MAX;

/* SMALL_PROBLEMS=0 in the environment leaves them out, for runs that are counted. */
static int small_problems(void)
{
    const char *chosen = getenv("SMALL_PROBLEMS");
    return chosen && *chosen && atoi(chosen) < small_limit ? atoi(chosen) : small_limit;
}

/*
 * Judges small problems whose inputs show mistakes that ordinary ones hide. The first that fails is what is wrong with the
 * run; a row in doubt is none, for some of these inputs go further than a step's arithmetic. Returns how many there are.
 */
static int judge_small(const struct run *r, const char *name, struct verdict *v)
{
    int count = 0, limit = small_problems();
    struct options o = *r->o;
    for (const char *problem; count < limit && (problem = r->kind->small(r->step, &o, count)); count++, o = *r->o) {
        struct run small = { .kind = r->kind, .step = r->step, .o = &o, .device = r->device };
        if (r->kind->missing(r->step, &o, r->device))
            continue;
        struct verdict mine = problem_judge(&small, name);
        bool failed = mine.wrong || (!mine.pass && !mine.doubtful);
        bool again = !r->kind->any_order || !r->kind->any_order(r->step, r->device);
        if (!failed && again && !rows_stand_alone(&small, name)) {
            failed = true;
            snprintf(mine.what, sizeof mine.what, "not the same bits when run again, with another last row");
        }
        problem_free(&small);
        if (failed && v->wrong == 0) {
            v->pass = false;
            v->wrong = mine.wrong ? mine.wrong : 1;
            snprintf(v->what, sizeof v->what, "%s: %.120s", problem, mine.what);
        }
    }
    return count;
}

/* ---- reporting */

static void print_verdict(const struct run *r, const struct result *result, int small)
{
    const struct verdict *v = &result->verdict;
    char words[128];
    printf("  %s: %s", r->device->name, result->device);
    if (result->threads)
        printf(", %d thread%s", result->threads, result->threads > 1 ? "s" : "");
    snprintf(words, sizeof words, r->kind->error, v->error, v->tolerance);
    printf("\n    verdict     %s: %s; %s, and %d small problems\n", verdict_word(v), words, verdict_coverage(v), small);
    if (!v->pass)
        printf("                %lld elements are wrong, %lld rows in doubt; %s\n", (long long)v->wrong, (long long)v->doubtful,
               v->what);
}

/* What the run really did, beside what it claims. */
static void print_counts(const struct run *r, const struct result *result, const struct counts *done)
{
    double units = r->kind->units(r->o), rows = (double)r->kind->rows(r->o);
    printf("    counted     %.5g exps %s, claimed %.5g", (double)done->exps / units, r->kind->unit, result->exps / units);
    if (done->merges)
        printf("; %.4g of a row's %.6g merges raised the maximum", (double)done->raised / rows, (double)done->merges / rows);
    printf("\n");
}

static void print_result(const struct run *r, const struct result *result, const struct before *before,
                         const struct timing *beside, const struct timing *again)
{
    char words[128];
    printf("    time        %.4g ms, median of %d; p10 %.4g, p90 %.4g", result->time.median, result->time.reps, result->time.p10,
           result->time.p90);
    r->kind->print_cost(r, result, beside);
    snprintf(words, sizeof words, "%.2fx if memory is the limit, %.2fx if exp is", before->bytes / result->predicted_bytes,
             before->exps / result->exps);
    if (!attempt)
        print_before(result, before, words);
    if (again)
        printf("    noise       against itself: %.3fx\n", again->median / result->time.median);
    if (above_ceiling(result))
        printf("    ERROR       above the ceiling: this measurement is wrong, or that of the ceiling (make step-0)\n");
}

static void call(void *run)
{
    const struct run *r = run;
    r->kind->call(r);
}

static struct work work_of(struct run *r)
{
    return (struct work){ .run = call, .arg = r, .bytes = bytes_of_all(r),
                          .timed = r->kind->clock ? r->kind->clock(r->step, r->device) : NULL };
}

/* The step before on the same problem, in turn with this one; its
   outputs take the place of this step's, which have been looked at. */
static struct before run_before(const struct run *r, const struct names *names, struct work run)
{
    if (!names->before_step)
        return (struct before){ 0 };
    struct run other = *r;
    const char *name = names->before;
    const void *another = r->kind->before ? r->kind->before(r->device, &name) : NULL;
    other.step = another ? another : names->before_step;
    struct cost cost = r->kind->predict(other.step, r->o, r->device);
    struct before b = { .step = name, .bytes = cost.bytes, .exps = cost.exps };
    const char *why = r->kind->missing(other.step, r->o, r->device);
    size_t bytes = why ? 0 : r->kind->workspace(other.step, r->o, r->device);
    if (why)
        snprintf(b.why_not, sizeof b.why_not, "%.120s", why);
    else if (bytes > r->device->memory())
        snprintf(b.why_not, sizeof b.why_not, "it needs %.3g GiB besides", (double)bytes / (1 << 30));
    if (*b.why_not)
        return b;
    other.workspace = workspace_new(&other);
    b.time = time_ratio(run, work_of(&other), r->device, r->o->reps, r->o->budget);
    buffer_free(&other.workspace);
    return b;
}

/* ---- one device */

void (*attempt)(const struct run *r, const struct result *result, const struct before *before);

/* Verify, time and report the step on one problem. */
static bool run_problem(struct run *r, const struct names *names, bool first)
{
    const struct options *o = r->o;
    buffer_free(&r->workspace);
    r->workspace = workspace_new(r);
    struct cost cost = r->kind->predict(r->step, o, r->device);
    counts_taken();
    struct result result = {
        .step = names->step, .device = r->device->model(), .backend = r->device->backend, .dtype = o->dtype, .seed = o->seed,
        .threads = r->device->threads(), .predicted_bytes = cost.bytes, .exps = cost.exps, .verdict = judge(r, names->step),
    };
    struct counts done = counts_taken();
    r->kind->write(r);
    int small = first ? judge_small(r, names->step, &result.verdict) : 0;
    if (attempt && !result.verdict.pass) {
        attempt(r, &result, NULL);
        return false;
    }
    if (counting) {
        print_verdict(r, &result, small);
        print_counts(r, &result, &done);
        return result.verdict.pass;
    }

    struct work beside = r->kind->beside(r), works[3];
    int count = 0, at_step = beside.run != NULL, at_again = at_step + 1;
    if (beside.run)
        works[count++] = beside;
    works[count++] = work_of(r);
    if (o->noise)
        works[count++] = works[at_step];
    time_in_turn(works, count, o->reps, o->budget, r->device->run_once);
    result.time = works[at_step].time;
    const struct timing *other = beside.run ? &works[0].time : NULL;
    r->kind->measure(r, &result, other);

    bool whole = !o->json && !o->sweep && !o->sweep_scale;
    struct before before = whole || attempt ? run_before(r, names, works[at_step]) : (struct before){ 0 };
    if (!attempt)
        report_tsv(&result);
    if (o->json && !result.verdict.pass)
        fprintf(stderr, "%s: %s: %s\n", names->step, verdict_word(&result.verdict), result.verdict.what);
    if (whole) {
        print_verdict(r, &result, small);
        print_result(r, &result, &before, other, o->noise ? &works[at_again].time : NULL);
    } else if (!o->json)
        r->kind->print_line(o, &result);
    else if (!attempt)
        report_json(&result);
    if (attempt)
        attempt(r, &result, &before);
    return result.verdict.pass;
}

/* Inputs that follow from others, for this problem of a sweep. */
static void inputs_again(struct run *r)
{
    r->kind->forward(r->o, r->host);
    for (int i = 0; i < r->kind->inputs && r->device->apart; i++)
        r->device->upload(r->tensor[i].data, r->host[i].data, r->host[i].bytes);
}

/* One problem, or those of a sweep, of which the first has the largest tensors. */
static bool run_device(const struct kind *kind, const void *step, const struct names *names, const struct options *asked,
                       const struct device *device, const struct buffer *inputs)
{
    struct options o = *asked;
    struct run r = { .kind = kind, .step = step, .o = &o, .device = device };
    bool good = true;
    if ((o.sweep || o.sweep_scale) && !o.json)
        printf("  %s: %s\n", device->name, device->model());
    for (int i = 0; kind->sweep(&o, i); i++, o = *asked) {
        if (i == 0)
            tensors_new(&r, inputs);
        if (kind->forward && (o.sweep || o.sweep_scale))
            inputs_again(&r);
        good &= run_problem(&r, names, i == 0);
    }
    tensors_free(&r);
    return good;
}

/* All that a run takes, before any of it is allocated: tensors, workspace, what verifies them, and what flushes the caches. */
static void require_memory(const struct kind *kind, const void *step, const struct options *asked, const struct device *device,
                           bool used)
{
    struct options o = *asked;
    for (int i = 0; kind->sweep(&o, i); i++, o = *asked) {
        double inputs = 0, outputs = 0;
        for (int t = 0; t < kind->inputs + kind->outputs; t++)
            *(t < kind->inputs ? &inputs : &outputs) += (double)kind->bytes(&o, t);
        double workspace = used ? (double)kind->workspace(step, &o, device) : 0, verify = kind->verify_bytes(&o, device);
        double flush = (double)device->flush_bytes();
        bool sweep = o.sweep || o.sweep_scale; /* what flushes a GPU's caches stays while the next problem is verified */
        if (device->apart)
            memory_require(inputs + outputs + workspace + (sweep ? verify + flush : fmax(verify, flush)), device);
        else
            memory_require(inputs + fmax(o.file_bytes, outputs + workspace + verify + (used ? flush : 0)), device);
    }
}

static bool wanted(const struct options *o, const struct device *device)
{
    return device->apart ? o->gpu : o->cpu;
}

int program_main(const struct kind *kind, const void *step, const char *name, const char *idea, const void *before,
                 const char *before_name, int argc, char **argv)
{
    const struct names names = { .step = name, .before = before_name, .before_step = before };
    static const struct device *const devices[] = { &cpu_device, &gpu_device };
    struct options o = options_parse(argc, argv, idea, kind->options, kind->usual ? kind->usual(step) : NULL);
    kind->finish(step, &o);
    if (counting && (o.json || o.noise || o.sweep || o.sweep_scale))
        usage_error("--%s: COUNT=1 counts what one run does, and times nothing; leave it out", o.json ? "json" :
                    o.noise ? "noise" : o.sweep ? "sweep" : "sweep-scale");
    if (o.traced) {
        printf("%s: %s\n", name, idea);
        trace(kind, step, &o);
        return 0;
    }
    if (o.threads)
        cpu_set_threads(o.threads);
    char why[2][160] = { "", "" };
    for (int i = 0; i < 2; i++) {
        bool asked = wanted(&o, devices[i]); /* if not, it is not touched: to ask a GPU takes it into use */
        const char *missing = asked ? kind->missing(step, &o, devices[i]) : NULL;
        snprintf(why[i], sizeof why[i], "%s", missing ? missing : "");
        bool used = asked && !missing;
        if (used || !devices[i]->apart) /* inputs are made and results judged on the CPU */
            require_memory(kind, step, &o, devices[i], used);
    }
    struct options first = o;
    struct buffer inputs[MAX_TENSORS];
    if (o.sweep)
        kind->sweep(&first, 0); /* the largest tensors */
    kind->inputs_new(&first, inputs);
    if (!o.json) {
        printf("%s: %s\n  ", name, idea);
        kind->print_problem(&o);
    }
    bool good = true, ran = false;
    for (int i = 0; i < 2; i++) {
        if (!wanted(&o, devices[i]))
            continue;
        if (*why[i] && !o.json)
            printf("  %s: skipped: %s\n", devices[i]->name, why[i]);
        if (*why[i])
            continue;
        good &= run_device(kind, step, &names, &o, devices[i], inputs);
        ran = true;
    }
    for (int i = 0; i < kind->inputs; i++)
        buffer_free(&inputs[i]);
    if (!ran && !o.json)
        report_recorded(name);
    if (!ran && (o.json || options_output(&o).path))
        fatal("nothing ran, and nothing was written: no device that was asked for is here and has a version for %s",
              dtype_name(o.dtype));
    if (!ran && o.cpu != o.gpu) /* it was asked for; with all devices, a step that none here can run is no failure */
        return EXIT_FAILED;
    return good ? 0 : EXIT_FAILED;
}
