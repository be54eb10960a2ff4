package loop

import (
	"fmt"
	"sync/atomic"
)

// Quota bounds how many sockets one owner has open, on all loops. Its methods may be called from any thread; a nil Quota has no bound.
type Quota struct {
	owner   string
	most    int64
	refused func(error)
	used    atomic.Int64
}

// QuotaError says that an owner has no socket left.
type QuotaError struct {
	Owner string
	Most  int
}

func (e *QuotaError) Error() string {
	return fmt.Sprintf("%s has all of its %d sockets open: close connections, or raise the limit of open files, of which that is its share", e.Owner, e.Most)
}

// NewQuota makes the quota of an owner. refused hears of each refusal, on the thread that asked, and must not block.
func NewQuota(owner string, most int, refused func(error)) *Quota {
	return &Quota{owner: owner, most: int64(most), refused: refused}
}

// Take takes n sockets, or none of them and returns a *QuotaError.
func (q *Quota) Take(n int) error {
	if q == nil || q.used.Add(int64(n)) <= q.most {
		return nil
	}
	q.used.Add(int64(-n))
	err := &QuotaError{q.owner, int(q.most)}
	q.refused(err)
	return err
}

// Give gives n sockets back that were taken.
func (q *Quota) Give(n int) {
	if q != nil {
		q.used.Add(int64(-n))
	}
}
