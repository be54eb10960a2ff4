package zds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/mesh/handover"
)

// errGone says that the connection ended before the answer came.
var errGone = errors.New("the tunnel proxy disconnected")

// errRemoved says that there is no such pod any more when its turn comes.
var errRemoved error = &refusedError{Reason: "not sent: the pod was removed meanwhile"}

// connection is one proxy. Its loop (run) owns the socket's writing side and the order of requests; reader owns the
// reading side.
type connection struct {
	server   *Server
	conn     *net.UnixConn
	log      *slog.Logger
	can      abilities // set before it joins the server
	requests chan request
	packets  chan handover.Packet // from reader, with descriptors that whoever takes it closes; closed at the end
	gone     chan struct{}        // closed when run has ended
}

// request is one packet on its way to the proxy, or the UID of a pod to add, whose packet is built when its turn comes. answer has
// room for the result, so that run never waits for the asker.
type request struct {
	packet []byte
	add    string
	answer chan error
}

// serve runs a connection from hello to its end.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	c := &connection{
		server: s, conn: conn, log: s.log,
		requests: make(chan request), packets: make(chan handover.Packet), gone: make(chan struct{}),
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	defer conn.Close() // ends reader's wait
	group.Go(func() { c.read(ctx) })
	if err := c.hello(ctx); err != nil {
		s.log.Warn("tunnel proxy rejected", "err", err)
		return
	}
	s.log.Info("tunnel proxy connected")
	if words := disagreement(s.sendsDNS, c.can.dns); words != "" {
		s.log.Error("settings of the agent and of the tunnel proxy disagree", "err", words)
	}
	uids := s.join(c)
	err := c.run(ctx, uids)
	close(c.gone)
	s.drop(ctx, c)
	s.log.Info("tunnel proxy disconnected", "err", err)
}

// join makes the connection the newest, unless its proxy started before another's, and lists the pods of its snapshot. Both at the same
// moment: a pod added later is asked for on the connection, one added before is in the list.
func (s *Server) join(c *connection) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := len(s.connections)
	for at > 0 && c.can.started < s.connections[at-1].can.started {
		at-- // an agent that starts anew is reached by proxies in any order
	}
	s.connections = slices.Insert(s.connections, at, c)
	uids := make([]string, 0, len(s.pods))
	for uid := range s.pods {
		uids = append(uids, uid)
	}
	return uids
}

// read passes packets on until the socket ends. It notices at once when the proxy goes away.
func (c *connection) read(ctx context.Context) {
	defer close(c.packets)
	for {
		packet, err := handover.Receive(c.conn)
		if errors.Is(err, handover.ErrTooLarge) {
			c.log.Warn("tunnel proxy sent more than it may", "err", err)
		}
		if err != nil || len(packet.Data) == 0 {
			packet.Close()
			return
		}
		select {
		case c.packets <- packet:
		case <-ctx.Done():
			packet.Close()
			return
		}
	}
}

// next waits for a packet, no longer than answerTimeout.
func (c *connection) next(ctx context.Context) (handover.Packet, error) {
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case packet, ok := <-c.packets:
		if !ok {
			return packet, errGone
		}
		return packet, nil
	case <-timer.C:
		return handover.Packet{}, fmt.Errorf("no answer within %s", answerTimeout)
	case <-ctx.Done():
		return handover.Packet{}, ctx.Err()
	}
}

func (c *connection) hello(ctx context.Context) error {
	packet, err := c.next(ctx)
	if err != nil {
		return fmt.Errorf("wait for hello: %w", err)
	}
	packet.Close()
	if c.can, err = parseHello(packet.Data); c.can.started == 0 {
		c.can.started = uint64(handover.Now()) // one that doesn't tell counts from now
	}
	return err
}

// run sends the snapshot and then what is asked, one request at a time, until the connection ends.
func (c *connection) run(ctx context.Context, uids []string) error {
	if err := c.snapshot(ctx, uids); err != nil {
		return err
	}
	select {
	case c.server.snapshots <- struct{}{}:
	default: // the last one hasn't been seen yet
	}
	for {
		select {
		case r := <-c.requests:
			err := c.exchange(ctx, r)
			r.answer <- err
			if err != nil && !refused(err) {
				return err
			}
		case packet, ok := <-c.packets:
			if ok {
				packet.Close()
				return fmt.Errorf("unasked packet of %d bytes", len(packet.Data))
			}
			return errGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *connection) snapshot(ctx context.Context, uids []string) error {
	for _, uid := range uids {
		err := c.exchange(ctx, request{add: uid})
		if errors.Is(err, errRemoved) {
			continue
		}
		if refused(err) {
			c.log.Warn("tunnel proxy can't serve a pod of its snapshot, it will be asked again", "uid", uid, "err", err)
		} else if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
	}
	packet, err := snapshotSent()
	if err != nil {
		return err
	}
	if err := c.exchange(ctx, request{packet: packet}); err != nil && !refused(err) {
		return fmt.Errorf("end of snapshot: %w", err)
	}
	return nil
}

// exchange sends one request and waits for its answer. Any error but a refusal ends the connection: an answer that comes
// too late would be taken for the next request's.
func (c *connection) exchange(ctx context.Context, r request) error {
	packet, along := r.packet, handover.Packet{}
	if r.add != "" {
		var err error
		packet, along, err = c.server.addition(r.add, c.can)
		defer along.Close()
		if err != nil && !refused(err) {
			err = &refusedError{Reason: "not sent: " + err.Error()}
		}
		if err != nil {
			return err
		}
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return errGone
	}
	if err := handover.Send(c.conn, packet, along.Files...); err != nil {
		return fmt.Errorf("%w: %v", errGone, err)
	}
	answer, err := c.next(ctx)
	if err != nil {
		return fmt.Errorf("%w: %v", errGone, err)
	}
	err = c.take(r, answer)
	if err != nil && !refused(err) {
		return fmt.Errorf("%w: after a bad answer: %v", errGone, err)
	}
	return err
}

// take understands an answer and notes what it says about a pod.
func (c *connection) take(r request, answer handover.Packet) error {
	list, err := parseAnswer(answer.Data)
	if err == nil && len(answer.Files) > 0 && (r.add == "" || !c.can.handOver) {
		err = errors.New("descriptors that weren't asked for")
	}
	if err != nil {
		answer.Close()
		if r.add != "" && refused(err) {
			c.server.note(r.add, c, declined, nil)
		}
		return err
	}
	given, err := handover.Unpack(list, answer.Files)
	if err == nil && r.add != "" {
		c.server.note(r.add, c, accepted, given)
	}
	return err
}

// ask has the loop send a request and waits for the answer.
func (c *connection) ask(ctx context.Context, r request) error {
	r.answer = make(chan error, 1)
	select {
	case c.requests <- r:
	case <-c.gone:
		return errGone
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func refused(err error) bool {
	var refusal *refusedError
	return errors.As(err, &refusal)
}
