use v5.36;

use IO::Socket::INET ();
use Test::More;
use Time::HiRes qw(sleep);

use Net::RealizeHit;

delete @ENV{qw(http_proxy HTTP_PROXY all_proxy ALL_PROXY)};

my ($program) = grep {-x} map {"$_/realizehit-server"} split /:/, $ENV{PATH};
plan skip_all => 'realizehit-server is not installed' if !defined $program;

my $free = IO::Socket::INET->new( LocalAddr => '127.0.0.1', Listen => 1 ) or die "no socket: $@\n";
my $port = $free->sockport;
close $free or die "close: $!\n";
my $pid = fork // die "no fork: $!\n";
if ( !$pid ) {
    open STDOUT, '>', '/dev/null' or die "/dev/null: $!\n";
    open STDERR, '>', '/dev/null' or die "/dev/null: $!\n";
    exec $program, '--host', '127.0.0.1', '--port', $port or die "$program: $!\n";
}

my $client;
for ( 1 .. 100 ) {    # until it listens
    $client = Net::RealizeHit::Client->new("ws://127.0.0.1:$port/ws");
    last if eval { $client->connect; 1 };
    sleep 0.1;
}
ok( $client->is_connected, 'connected' );

my $api  = Net::RealizeHit::API->new("http://127.0.0.1:$port/");
my $news = $client->subscribe( { kind => 'news', city => "S\x{e3}o Paulo" } );
my $any  = $client->subscribe( { kind => 'news', city => q{*} } );
my $result = $api->publish( { city => "S\x{e3}o Paulo", kind => 'news' }, { title => "\x{65e5}\x{672c}" } );
is( $result->{id}, $news->id, 'published' );
cmp_ok( $result->{nodes}, '>=', 1, 'reached the server' );
is_deeply( $news->next(10)->payload, { title => "\x{65e5}\x{672c}" }, 'received' );
is_deeply( $any->next(10)->pattern, { kind => 'news', city => "S\x{e3}o Paulo" }, 'received by a wildcard' );

my $outcomes = $api->publish_many( [ map { { pattern => { kind => 'news', city => 'Rio' }, payload => $_ } } 1 .. 1000 ] );
is( scalar( grep { $_->{error} } @{$outcomes} ), 0, 'many published' );
my @got = map { $any->next(10)->text } 1 .. 1000;
is( "@got", join( q{ }, 1 .. 1000 ), 'many received, in order' );

my $error = eval { $api->publish_text( { kind => 'news' }, q{"} . 'x' x 2_000_000 . q{"} ); 1 } ? undef : $@;
isa_ok( $error, 'Net::RealizeHit::Error::TooLarge', 'a payload that is too large' );
$client->close;
ok( $news->ended, 'closed' );

END {
    if ($pid) {
        my $status = $?;
        kill 'TERM', $pid;
        waitpid $pid, 0;
        $? = $status;    ## no critic (RequireLocalizedPunctuationVars)
    }
}

done_testing();
