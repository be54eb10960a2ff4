package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// maxLine bounds a question and an answer of the database, in bytes.
const maxLine = 1024

// stars is the database: a line with the id of a book comes in, a line with what two reviewers gave it goes out.
func stars(ctx context.Context, l net.Listener, _ config) error {
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(time.Minute))
			lines := bufio.NewReader(io.LimitReader(conn, maxLine))
			if _, err := lines.ReadString('\n'); err == nil {
				_, _ = io.WriteString(conn, "5 4\n")
			}
		}()
	}
}

func askStars(ctx context.Context, addr, id string) (found [2]int, err error) {
	ctx, cancel := within(ctx)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return found, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return found, err
	}
	if _, err := fmt.Fprintln(conn, strings.ReplaceAll(id, "\n", "")); err != nil {
		return found, err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, maxLine)).ReadString('\n')
	if err != nil {
		return found, fmt.Errorf("%s ends in the middle of its answer: %w", addr, err)
	}
	return parseStars(line)
}

// parseStars reads two numbers from 0 to 5.
func parseStars(line string) (found [2]int, err error) {
	words := strings.Fields(line)
	if len(words) != len(found) {
		return found, fmt.Errorf("%q: want %d numbers", line, len(found))
	}
	for i, word := range words {
		if found[i], err = strconv.Atoi(word); err != nil || found[i] < 0 || found[i] > 5 {
			return [2]int{}, fmt.Errorf("%q: want numbers from 0 to 5", line)
		}
	}
	return found, nil
}
