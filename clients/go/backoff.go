package realizehit

import (
	"math/rand/v2"
	"time"
)

// backoff gives delays with full jitter: each is drawn evenly from zero to a bound, which doubles.
type backoff struct {
	base, most time.Duration
	attempts   int
}

func (b *backoff) next() time.Duration {
	bound := b.base << min(b.attempts, 30)
	if bound <= 0 || bound > b.most {
		bound = b.most
	}
	b.attempts++
	return time.Duration(rand.Float64() * float64(bound)) //nolint:gosec // a spread, no secret
}

func (b *backoff) reset() { b.attempts = 0 }
