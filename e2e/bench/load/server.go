package load

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// Ports of the load program, one for each thing that a server can do with a connection.
const (
	portSink     = 7001 // reads
	portSource   = 7002 // writes
	portExchange = 7003 // a size of four bytes, then messages of that size, each answered by one
	portEcho     = 7004 // one byte, echoed
)

// chunk is how much bulk traffic reads and writes at once.
const chunk = 128 << 10

// maxMessage bounds an exchange.
const maxMessage = 1 << 20

// listen serves all ports of a host, or of all if it is "", until the listeners are closed.
func (c *counters) listen(host string) (listeners []net.Listener, err error) {
	for port, serve := range map[int]func(*net.TCPConn) error{
		portSink: c.sink, portSource: source, portExchange: answer, portEcho: echoes,
	} {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, listener)
		go c.accept(listener, serve)
	}
	return listeners, nil
}

func (c *counters) accept(listener net.Listener, serve func(*net.TCPConn) error) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			c.fail(err)
			time.Sleep(retryPause)
			continue
		}
		go func() {
			defer conn.Close()
			if err := serve(conn.(*net.TCPConn)); err != nil && !over(err) {
				c.fail(err)
			}
		}()
	}
}

// over tells that a connection ended, which is how all traffic does.
func over(err error) bool {
	var network *net.OpError
	return errors.Is(err, io.EOF) || errors.As(err, &network)
}

// sink counts what arrives, here and in Download.
func (c *counters) sink(conn *net.TCPConn) error {
	buffer := make([]byte, chunk)
	for {
		n, err := conn.Read(buffer)
		c.bytes.Add(int64(n))
		if err != nil {
			return err
		}
	}
}

func source(conn *net.TCPConn) error {
	payload := payload(chunk)
	for {
		if _, err := conn.Write(payload); err != nil {
			return err
		}
	}
}

func answer(conn *net.TCPConn) error {
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return err
	}
	message := make([]byte, min(binary.BigEndian.Uint32(size[:]), maxMessage))
	for {
		if _, err := io.ReadFull(conn, message); err != nil {
			return err
		}
		if _, err := conn.Write(message); err != nil {
			return err
		}
	}
}

// echoes one byte, then leaves the closing to the client.
func echoes(conn *net.TCPConn) error {
	var b [1]byte
	for {
		if _, err := conn.Read(b[:]); err != nil {
			return err
		}
		if _, err := conn.Write(b[:]); err != nil {
			return err
		}
	}
}

func payload(size int) []byte {
	return []byte(strings.Repeat(Marker, size/len(Marker)+1)[:size])
}
