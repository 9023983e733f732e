# frozen_string_literal: true

# Receives messages for the load test of the conformance kit: with the client, or with websocket-driver alone.

require "socket"
require_relative "../lib/realizehit"

$stdout.sync = true
STEP = 1000 # messages from one line of the output to the next

mode, url, wanted, queue = ARGV
wanted = wanted.to_i
count = 0
take = lambda do |_message = nil|
  count += 1
  puts count if (count % STEP).zero? || count == wanted
end

# What websocket-driver writes to.
Wire = Struct.new(:url, :socket) do
  def write(bytes)
    socket.write(bytes)
  end
end

if mode == "client"
  client = Realizehit::Client.new(url)
  finished = Queue.new
  client.subscribe({ kind: "load" }, queue: queue.to_i) do |message|
    take.call(message)
    finished << true if count == wanted
  end
  puts "ready"
  finished.pop
  client.close
else
  address = URI(url)
  socket = TCPSocket.new(address.host, address.port)
  driver = WebSocket::Driver.client(Wire.new(url, socket))
  driver.on(:open) { driver.text('{"id":"1","act":"sub","pat":{"kind":"load"}}') }
  driver.on(:message) { |event| event.data.start_with?("{") ? puts("ready") : take.call }
  driver.start
  driver.parse(socket.readpartial(65_536)) while count < wanted
  socket.close
end
