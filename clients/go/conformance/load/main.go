// Command load receives messages for the load test of the conformance kit: with the client, or with the library that the
// client is built on alone.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/coder/websocket"
	realizehit "github.com/realizehit/realizehit-go"
)

const (
	step = 1000 // messages from one line of the output to the next
	most = 1 << 20
)

type counter struct{ count, end int }

func (c *counter) take() (finished bool) {
	if c.count++; c.count%step == 0 || c.count == c.end {
		fmt.Println(c.count)
	}
	return c.count == c.end
}

func main() {
	mode, address := os.Args[1], os.Args[2]
	end, _ := strconv.Atoi(os.Args[3])
	queue, _ := strconv.Atoi(os.Args[4])
	receive := map[string]func(string, *counter, int) error{"client": client, "plain": plain}[mode]
	if err := receive(address, &counter{end: end}, queue); err != nil {
		log.Fatal(err)
	}
}

func client(address string, counter *counter, queue int) error {
	ctx := context.Background()
	client, err := realizehit.Connect(ctx, address, realizehit.Options{})
	if err != nil {
		return err
	}
	defer client.Close()
	finished := make(chan struct{})
	_, err = client.Subscribe(ctx, realizehit.Pattern{"kind": "load"}, realizehit.SubscribeOptions{
		Queue: queue,
		OnMessage: func(*realizehit.Message) {
			if counter.take() {
				close(finished)
			}
		},
	})
	if err != nil {
		return err
	}
	fmt.Println("ready")
	<-finished
	return nil
}

func plain(address string, counter *counter, _ int) error {
	ctx := context.Background()
	socket, response, err := websocket.Dial(ctx, address, nil)
	if err != nil {
		return err
	}
	if response.Body != nil {
		defer response.Body.Close()
	}
	defer func() { _ = socket.CloseNow() }()
	socket.SetReadLimit(most)
	if err := socket.Write(ctx, websocket.MessageText, []byte(`{"id":"1","act":"sub","pat":{"kind":"load"}}`)); err != nil {
		return err
	}
	for {
		_, message, err := socket.Read(ctx)
		if err != nil {
			return err
		}
		if message[0] == '{' {
			fmt.Println("ready")
		} else if counter.take() {
			return nil
		}
	}
}
