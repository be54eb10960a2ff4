package node

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
)

// period is prime, so that a piece that was lost or doubled, of any usual size, shifts what follows.
const period = 1048583

// table is one period of the pattern.
var table = sync.OnceValue(func() []byte {
	all := make([]byte, period)
	rand.NewChaCha8([32]byte{}).Read(all)
	return all
})

// pattern is an endless reader of the same bytes each time. The zero value starts at the beginning.
type pattern struct {
	at int
}

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, table()[p.at%period:])
	p.at += n
	return n, nil
}

// checker is a writer that compares what it gets with pattern, and fails at the first byte that differs.
type checker struct {
	size int // so far
}

// Write fails at the first wrong byte and names its offset.
func (c *checker) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		want := table()[c.size%period:]
		want = want[:min(len(want), len(b)-done)]
		got := b[done : done+len(want)]
		if !bytes.Equal(got, want) {
			for i := range want {
				if got[i] != want[i] {
					return done + i, fmt.Errorf("byte %d is %#02x, want %#02x", c.size+i, got[i], want[i])
				}
			}
		}
		c.size, done = c.size+len(want), done+len(want)
	}
	return len(b), nil
}
