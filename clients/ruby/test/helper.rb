# frozen_string_literal: true

# A warning about a file of this gem fails the run.
module StrictWarnings
  ROOT = File.expand_path("..", __dir__)

  def warn(message, ...)
    raise "a warning: #{message}" if message.include?(ROOT) || message.include?("/realizehit/")

    super
  end
end
Warning.extend(StrictWarnings)

require "minitest/autorun"
require "realizehit"
require "socket"
require "timeout"
require "websocket/driver"

Thread.report_on_exception = true

# One connection of a scripted WebSocket server.
class ScriptedConnection
  attr_reader :url, :env, :headers

  def initialize(socket)
    @socket = socket
    @texts = Thread::Queue.new
    @driver = WebSocket::Driver.server(self)
    @driver.on(:connect) do
      @headers = @driver.env
      @driver.start
    end
    @driver.on(:message) { |event| @texts << event.data }
    @driver.on(:close) { @texts.close }
  end

  def write(bytes)
    @socket.write(bytes)
  rescue SystemCallError, IOError
    nil # the client has gone
  end

  # Returns the next action of the client; nil once the client has gone.
  def next_action
    read while @texts.empty? && !@texts.closed?
    text = @texts.pop
    text && JSON.parse(text)
  end

  # Answers the next action, and returns it.
  def reply(fields)
    action = next_action
    say(JSON.generate({ id: action["id"], **fields }))
    action
  end

  def say(*texts)
    texts.each { |text| @driver.text(+text) }
  end

  def close(code, reason = "")
    @driver.close(reason, code)
    idle
  end

  # Waits until the client has gone.
  def idle
    read until @texts.closed?
  end

  def handshake
    read until @headers
  end

  private

  def read
    @driver.parse(@socket.readpartial(4096))
  rescue SystemCallError, IOError
    @texts.close
  end
end

# Servers that do as a test says; they end with the test.
module ScriptedServers
  def setup
    @cleanups = []
  end

  def teardown
    @cleanups.reverse_each(&:call)
  end

  # Serves one connection after another, each by the next function, and returns the port.
  def serve(*scripts)
    server = TCPServer.new("127.0.0.1", 0)
    sockets = []
    thread = Thread.new do
      scripts.each do |script|
        sockets << (socket = server.accept)
        script.call(socket)
        socket.close
      end
      server.close
    end
    @cleanups << lambda do
      thread.kill
      [server, *sockets].each { |each| each.close unless each.closed? }
    end
    server.addr[1]
  end

  # Starts a WebSocket server whose connections follow the functions, and returns a client of it.
  def client_of(*scripts, **options)
    port = serve(*scripts.map { |script| websocket(script) })
    client = Realizehit::Client.new("ws://127.0.0.1:#{port}/ws", backoff_base: 0.001, logger: quiet, **options)
    @cleanups << -> { client.close }
    client
  end

  def websocket(script)
    lambda do |socket|
      connection = ScriptedConnection.new(socket)
      connection.handshake
      script.call(connection)
    end
  end

  # Serves HTTP requests, each on a connection of its own, by answers: a text, or nil to close without one. Returns an
  # API client and the queue of the requests, as [head, body].
  def api_of(*answers, **options)
    requests = Thread::Queue.new
    port = serve(*answers.map { |answer| ->(socket) { exchange(socket, answer, requests) } })
    api = Realizehit::API.new("http://127.0.0.1:#{port}/", backoff_base: 0.001, **options)
    @cleanups << -> { api.close }
    [api, requests]
  end

  def answer(status, body, **headers)
    lines = { "Content-Length" => body.bytesize, "Connection" => "close", **headers.transform_keys(&:to_s) }
    "HTTP/1.1 #{status} X\r\n#{lines.map { |name, value| "#{name}: #{value}\r\n" }.join}\r\n#{body}"
  end

  def quiet
    Logger.new(File::NULL)
  end

  # Returns the next element of a queue.
  def take(queue)
    Timeout.timeout(10) { queue.pop }
  end

  private

  def exchange(socket, answer, requests)
    head = +""
    head << socket.readpartial(1) until head.end_with?("\r\n\r\n")
    requests << [head, socket.read(head[/^content-length: (\d+)/i, 1].to_i)]
    socket.write(answer) if answer
  end
end
