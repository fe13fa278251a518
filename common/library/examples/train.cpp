// Attention and its gradients, in C++: the loss is the sum of O, and the gradients are held to finite differences.
//
//     c++ train.cpp $(pkg-config --cflags --libs from_softmax) -o train
#include <from_softmax.h>

#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

using Numbers = std::vector<float>;
static const fsa_problem p = {1, 2, 1, 40, 40, 16, 0.25f, 1, FSA_FP32};

// A function of the library is called twice: to ask what workspace it needs, and with that.
template <class Function> static fsa_status run(Function function)
{
    fsa_run how = {};
    how.flags = FSA_ASK;
    fsa_status status = function(&how);
    std::vector<char> memory(how.needed);
    how.flags = 0, how.workspace = memory.data(), how.bytes = memory.size();
    return status ? status : function(&how);
}

static double forward(const Numbers &q, const Numbers &k, const Numbers &v, Numbers &o, Numbers &lse)
{
    const fsa_in Q = {q.data(), 0, 0, 0}, K = {k.data(), 0, 0, 0}, V = {v.data(), 0, 0, 0};
    const fsa_out O = {o.data(), 0, 0, 0};
    if (fsa_status status = run([&](fsa_run *how) { return fsa_attention(&p, &O, lse.data(), &Q, &K, &V, how); }))
        return std::puts(fsa_words(status)), NAN;
    double loss = 0;
    for (float x : o)
        loss += x;
    return loss;
}

int main()
{
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    Numbers q(2 * 40 * 16), k(40 * 16), v(40 * 16), o(q.size()), lse(2 * 40), ones(q.size(), 1), dq(q), dk(k), dv(v);
    for (Numbers *x : {&q, &k, &v})
        for (float &number : *x)
            number = normal(random);
    forward(q, k, v, o, lse);

    const fsa_in Q = {q.data(), 0, 0, 0}, K = {k.data(), 0, 0, 0}, V = {v.data(), 0, 0, 0}, O = {o.data(), 0, 0, 0},
                 dO = {ones.data(), 0, 0, 0};
    const fsa_out dQ = {dq.data(), 0, 0, 0}, dK = {dk.data(), 0, 0, 0}, dV = {dv.data(), 0, 0, 0};
    fsa_status status = run([&](fsa_run *how) {
        return fsa_attention_backward(&p, &dQ, &dK, &dV, &Q, &K, &V, &O, lse.data(), &dO, nullptr, how);
    });

    const float step = 0.05f;
    Numbers above = k, below = k;
    above[37] += step, below[37] -= step;
    double slope = (forward(q, above, v, o, lse) - forward(q, below, v, o, lse)) / (2 * step);
    std::printf("%s: dK[37] is %.4f, and by differences %.4f\n", fsa_words(status), dk[37], slope);
    return status != FSA_OK || !(std::fabs(slope - dk[37]) < 0.01);
}
