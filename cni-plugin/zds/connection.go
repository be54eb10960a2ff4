package zds

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// errGone says that the connection ended before the answer came.
var errGone = errors.New("the tunnel proxy disconnected")

// connection is one proxy. Its loop (run) owns the socket's writing side and the order of requests; reader owns the
// reading side.
type connection struct {
	server   *Server
	conn     *net.UnixConn
	log      *slog.Logger
	requests chan request
	packets  chan []byte   // from reader; closed at the end
	gone     chan struct{} // closed when run has ended
}

// request is one packet on its way to the proxy. answer has room for the result, so that run never waits for the asker.
type request struct {
	packet []byte
	netns  string // UID of the pod whose namespace goes along, or ""
	answer chan error
}

// serve runs a connection from hello to its end.
func (s *Server) serve(ctx context.Context, conn *net.UnixConn) {
	c := &connection{
		server: s, conn: conn, log: s.log,
		requests: make(chan request), packets: make(chan []byte), gone: make(chan struct{}),
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
	uids := s.join(c)
	err := c.run(ctx, uids)
	s.drop(c)
	close(c.gone)
	s.log.Info("tunnel proxy disconnected", "err", err)
}

// join makes the connection the newest, and lists the pods of its snapshot. Both at the same moment: a pod added later
// is asked for on the connection, one added before is in the list.
func (s *Server) join(c *connection) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections = append(s.connections, c)
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
		packet := make([]byte, maxPacket)
		n, _, flags, _, err := c.conn.ReadMsgUnix(packet, nil)
		if err != nil || n == 0 {
			return
		}
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			c.log.Warn("tunnel proxy sent an oversized packet or a descriptor", "limit", maxPacket)
			return
		}
		select {
		case c.packets <- packet[:n]:
		case <-ctx.Done():
			return
		}
	}
}

// next waits for a packet, no longer than answerTimeout.
func (c *connection) next(ctx context.Context) ([]byte, error) {
	timer := time.NewTimer(answerTimeout)
	defer timer.Stop()
	select {
	case packet, ok := <-c.packets:
		if !ok {
			return nil, errGone
		}
		return packet, nil
	case <-timer.C:
		return nil, fmt.Errorf("no answer within %s", answerTimeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *connection) hello(ctx context.Context) error {
	packet, err := c.next(ctx)
	if err != nil {
		return fmt.Errorf("wait for hello: %w", err)
	}
	return parseHello(packet)
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
			err := c.exchange(ctx, r.packet, r.netns)
			r.answer <- err
			if err != nil && !refused(err) {
				return err
			}
		case packet, ok := <-c.packets:
			if ok {
				return fmt.Errorf("unasked packet of %d bytes", len(packet))
			}
			return errGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *connection) snapshot(ctx context.Context, uids []string) error {
	for _, uid := range uids {
		packet, ok := c.server.addPacket(uid)
		if !ok {
			continue
		}
		err := c.exchange(ctx, packet, uid)
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
	if err := c.exchange(ctx, packet, ""); err != nil && !refused(err) {
		return fmt.Errorf("end of snapshot: %w", err)
	}
	return nil
}

// addPacket builds the request for a registered pod; ok is false when it has gone since.
func (s *Server) addPacket(uid string) (packet []byte, ok bool) {
	s.mu.Lock()
	pod, ok := s.pods[uid]
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	packet, err := addRequest(pod.workload)
	if err != nil {
		s.log.Warn("leave a pod out of the snapshot", "uid", uid, "err", err)
		return nil, false
	}
	return packet, true
}

// exchange sends one packet and waits for its answer. Any error but a refusal ends the connection: an answer that comes
// too late would be taken for the next request's.
func (c *connection) exchange(ctx context.Context, packet []byte, netns string) error {
	var rights []byte
	if netns != "" {
		file, ok, err := c.server.dupNetns(netns)
		if err != nil {
			return &refusedError{Reason: "not sent: " + err.Error()}
		}
		if !ok {
			return &refusedError{Reason: "not sent: the pod was removed meanwhile"}
		}
		defer file.Close()
		rights = unix.UnixRights(int(file.Fd()))
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(answerTimeout)); err != nil {
		return errGone
	}
	if _, _, err := c.conn.WriteMsgUnix(packet, rights, nil); err != nil {
		return fmt.Errorf("%w: %v", errGone, err)
	}
	answer, err := c.next(ctx)
	if err != nil {
		return fmt.Errorf("%w: %v", errGone, err)
	}
	err = parseAnswer(answer)
	if err != nil && !refused(err) {
		return fmt.Errorf("%w: after a bad answer: %v", errGone, err)
	}
	switch {
	case netns == "":
	case err == nil:
		c.server.note(netns, accepted)
	default:
		c.server.note(netns, declined)
	}
	return err
}

// ask has the loop send a request and waits for the answer.
func (c *connection) ask(ctx context.Context, packet []byte, netns string) error {
	r := request{packet: packet, netns: netns, answer: make(chan error, 1)}
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
