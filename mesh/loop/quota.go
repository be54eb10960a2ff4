package loop

import (
	"fmt"
	"sync/atomic"
)

// Supply is the sockets that several owners share. Its methods may be called from any thread.
type Supply struct{ free atomic.Int64 }

// NewSupply makes a supply of so many sockets.
func NewSupply(sockets int) *Supply {
	s := new(Supply)
	s.free.Store(int64(sockets))
	return s
}

// Quota bounds how many sockets one owner has open, on all loops: as many as are left for the others. A single greedy owner
// gets half of the supply, two get a third each, and however many there are, some are left for the next. Its methods may be
// called from any thread; a nil Quota has no bound.
type Quota struct {
	owner   string
	supply  *Supply
	refused func(error)
	used    atomic.Int64
}

// QuotaError says that an owner has as many sockets open as it may.
type QuotaError struct {
	Owner string
	Open  int
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("%s has %d sockets open, as many as are left for all others: close connections, or raise the limit of open files", e.Owner, e.Open)
}

// Quota makes the quota of an owner. refused hears of each refusal, on the thread that asked, and must not block.
func (s *Supply) Quota(owner string, refused func(error)) *Quota {
	return &Quota{owner: owner, supply: s, refused: refused}
}

// Take takes n sockets, or none of them and returns a *QuotaError.
func (q *Quota) Take(n int) error {
	if q == nil {
		return nil
	}
	used, free := q.used.Add(int64(n)), q.supply.free.Add(int64(-n))
	if used <= free {
		return nil
	}
	q.Give(n)
	err := &QuotaError{q.owner, int(used) - n}
	q.refused(err)
	return err
}

// Give gives n sockets back that were taken.
func (q *Quota) Give(n int) {
	if q != nil {
		q.supply.free.Add(int64(n))
		q.used.Add(int64(-n))
	}
}
