# frozen_string_literal: true

require_relative "helper"
require "tmpdir"

# Against a real server: the command realizehit-server, or the one that REALIZEHIT_SERVER names.
class ServerTest < Minitest::Test
  NEWS = { kind: "news", city: "São Paulo" }.freeze

  def self.command
    ENV.fetch("REALIZEHIT_SERVER") do
      paths = ENV["PATH"].split(":").map { |folder| File.join(folder, "realizehit-server") }
      paths.find { |path| File.executable?(path) }
    end
  end

  def setup
    skip "realizehit-server is not installed" unless self.class.command
    @port = TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
    @folder = Dir.mktmpdir("rh-")
    log = File.join(@folder, "log")
    @server = spawn({ "TMPDIR" => @folder }, self.class.command, "--port", @port.to_s, out: log, err: log, pgroup: true)
    @api = Realizehit::API.new("http://127.0.0.1:#{@port}/")
    wait_until_ready(log)
  end

  def teardown
    return unless @server

    @api.close
    Process.kill("TERM", @server)
    Process.wait(@server)
    FileUtils.remove_entry(@folder)
  end

  def wait_until_ready(log)
    Timeout.timeout(30) do
      sleep 0.05 until ready?
    end
  rescue Timeout::Error
    flunk File.read(log)
  end

  def ready?
    Net::HTTP.get_response("127.0.0.1", "/readyz", @port).is_a?(Net::HTTPOK)
  rescue SystemCallError
    false
  end

  def connect(...)
    Realizehit::Client.open("ws://127.0.0.1:#{@port}/ws", ...)
  end

  def test_publish_and_subscribe
    connect do |client|
      news = client.subscribe(NEWS)
      all = client.subscribe({ kind: "news", city: "*" })
      result = @api.publish(NEWS, { title: "olá" })
      assert_equal news.id, result.id
      assert_operator result.nodes, :>, 0
      message = news.next(timeout: 10)
      assert_equal({ "title" => "olá" }, message.payload)
      assert_equal({ "city" => "São Paulo", "kind" => "news" }, message.pattern)
      assert_equal message.pattern, all.next(timeout: 10).pattern
      news.unsubscribe
      assert_equal 1, @api.publish(NEWS, 2).nodes # the wildcard is there still
      assert_equal "2", all.next(timeout: 10).text
    end
  end

  def test_many_threads_publish_and_all_of_it_arrives_in_order
    connect(queue: 3000) do |client|
      subscription = client.subscribe({ "*": "*" })
      threads = Array.new(4) do |thread|
        Thread.new { 50.times { |number| @api.publish({ thread: }, number) } }
      end
      threads.each(&:join)
      outcomes = @api.publish_many(Array.new(2000) { |number| { pattern: { thread: 4 }, payload: number } })
      assert(outcomes.all?(&:published?))
      messages = Array.new(2200) { subscription.next(timeout: 10) || flunk("a message did not come") }
      came = messages.group_by { |message| message.pattern["thread"] }
      4.times { |thread| assert_equal (0...50).to_a, came[thread.to_s].map(&:payload) }
      assert_equal (0...2000).to_a, came["4"].map(&:payload)
    end
  end

  def test_a_server_without_history_ignores_what_is_asked_of_it
    connect do |client|
      news = client.subscribe(NEWS, last: 10, offsets: true)
      @api.publish(NEWS, 1)
      message = news.next(timeout: 10)
      assert_equal ["1", nil], [message.text, message.position]
    end
  end
end
